"""How often a model finds the class of an image: the command `python -m mvc.evaluate`."""
