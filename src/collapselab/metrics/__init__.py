"""What each number means: pure functions on arrays. A function returns sums and counts, or values derived from them."""
