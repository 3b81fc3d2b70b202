"""Models: transformers networks, the exact bigram learner, and how both are built and loaded."""
