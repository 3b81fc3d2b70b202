"""Training: from a mixture and start weights to a model."""
