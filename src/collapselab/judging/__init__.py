"""Judges between a generation's samples and later training sets."""
