"""Attention over short windows: its Triton kernels and the ops that launch them."""
