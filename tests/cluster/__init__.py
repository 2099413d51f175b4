"""Tests of the files that start a search on a cluster."""
