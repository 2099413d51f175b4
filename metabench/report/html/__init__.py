"""One HTML file of a search, and its pictures."""
