"""The search on a Ray cluster: trials, nodes, failures."""
