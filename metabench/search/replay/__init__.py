"""Searches on recorded learning curves and a simulated clock."""
