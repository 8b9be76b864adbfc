"""The regression gate: measure two versions side by side and say, with known error rates, whether one is slower."""
