"""Operators that are fast under vmap, and what computes them on a CPU and a GPU."""
