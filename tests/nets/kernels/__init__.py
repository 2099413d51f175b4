"""Kernels for a GPU: in Triton's interpreter where there is none, and what a capture asks of a step."""
