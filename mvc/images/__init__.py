"""Folders of images: what lies in them, which class each image has, and batches of them."""
