"""The smallest model with a block of each kind, for tests that generate code for all of it."""

ONE_OF_EACH = {"depths": (1, 1, 1, 1), "attention": ("M", "A")}
