"""What each number means: pure functions on arrays. A function returns sums and counts, or values derived from them."""

# The numbers a person sees first, by the key of metrics.jsonl: in the line of a generation and in every table.
HEADLINE = {
    "perplexity": "real/perplexity",
    "bits/byte": "real/bits_per_byte",
    "distinct-2": "diversity/words/distinct_2",
    "rare words": "tails/words/coverage_in_context_5_normalised",  # with its three companions, without which it says little
    "triples": "tails/words/known_triples_normalised",
    "rare mass": "tails/words/tail_mass_5",
    "overlap-50": "diversity/overlap_50",
    "slot diversity": "truth/slot/diversity",
}
