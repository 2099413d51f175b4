"""Searches and runs as experiment trackers take them: MLflow and Weights & Biases, each an extra."""
