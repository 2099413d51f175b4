"""Search, train and compare meta-learning algorithms that learn from a handful of examples."""

__version__ = "0.1.0"

PROTOCOL = 3
"""Raised when results stop being comparable; a leaderboard refuses to mix protocols."""
