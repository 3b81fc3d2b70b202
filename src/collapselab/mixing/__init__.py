"""Training sets: the blocks of real and written text that a generation learns from."""
