"""Convolutions with what follows them, each as one op; passes put it in place of torch's calls."""
