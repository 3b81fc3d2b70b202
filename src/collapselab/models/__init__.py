"""Models: networks of transformers, the exact learner of pairs, and where both come from."""
