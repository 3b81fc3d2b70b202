"""Experiments: arms x seeds, run side by side."""
