"""Data files that `mvc` ships."""
