"""Published results, rerun and judged."""
