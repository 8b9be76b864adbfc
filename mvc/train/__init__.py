"""Training: `python -m mvc.train`, the paper's recipe on one process or many."""
