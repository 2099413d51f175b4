"""Which settings are tried next: samplers, searchers and warm starts."""
