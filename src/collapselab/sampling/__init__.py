"""Sampling: from a model to text."""
