"""Files that go with an exported model, and need nothing of this package: a predictor and its README."""
