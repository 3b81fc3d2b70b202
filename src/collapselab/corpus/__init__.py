"""Real text: sources, tokenizers, the cache of tokenised text."""
