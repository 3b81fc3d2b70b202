"""Evaluation: from a model and its text to numbers."""
