"""One module for each command of `python -m mvc.regress`: its arguments, its examples, and what it runs."""
