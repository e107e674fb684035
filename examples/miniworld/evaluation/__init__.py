"""Measurements of the weight space's applications against the mini world's ground truth, one suite a module."""
