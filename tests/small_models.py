"""The smallest model with a block of each kind, for tests that generate code for all of it."""

EACH_KIND_ONCE = {"depths": (1, 1, 1, 1), "attention": ("M", "A")}
