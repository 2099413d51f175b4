"""What the commands do, for Python: train, test, search and boards; `metabench` itself names what is here."""
