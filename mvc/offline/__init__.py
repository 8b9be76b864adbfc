"""GPU code without a GPU: generated, compiled, checked and compared with a budget on any machine."""
