"""Recordings: what is in them, files of several formats, and those that a comparison or a history reads."""
