"""Definitions of the metrics: pure functions on arrays that return sums and counts, or values derived from them."""

# Headline metrics of the console and of every table, by the key of metrics.jsonl.
HEADLINE = {
    "perplexity": "real/perplexity",
    "bits/byte": "real/bits_per_byte",
    "distinct-2": "diversity/words/distinct_2",
    "rare words": "tails/words/coverage_in_context_5_normalised",  # to be read with its three companions
    "triples": "tails/words/known_triples_normalised",
    "rare mass": "tails/words/tail_mass_5",
    "overlap-50": "diversity/overlap_50",
    "slot diversity": "truth/slot/diversity",
}

# Main scores of tasks and judges, which follow them where a chain has any.
SCORES = {
    "p(correct)": "truth/task/p_correct",
    "pass@256": "truth/task/pass_at_256",
    "pass@1": "task/pass_at_1",
    "accepted": "judge/accepted",
    "TPR": "judge/tpr",
    "FPR": "judge/fpr",
    "J": "judge/j",
}
