"""Tasks: drawn, frozen, kept in files, and augmented."""
