"""What each number means: pure functions on arrays. A function returns sums and counts, or values derived from them."""

# The numbers a person sees first, by the key of metrics.jsonl: in the line of a generation and in every table.
HEADLINE = {
    "perplexity": "real/perplexity",
    "bits/byte": "real/bits_per_byte",
    "distinct-2": "diversity/words/distinct_2",
    "tail coverage": "tails/words/coverage_5_normalised",
    "slot diversity": "truth/slot/diversity",
}
