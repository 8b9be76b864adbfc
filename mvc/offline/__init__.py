"""GPU code without a GPU: generated, compiled, checked and held against a budget on any machine."""
