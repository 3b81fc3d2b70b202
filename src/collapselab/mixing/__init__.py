"""Training sets: which blocks of real and written text a generation learns from."""
