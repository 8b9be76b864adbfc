"""Linear layers with what surrounds them, each as one op; passes put them in place of torch's calls."""
