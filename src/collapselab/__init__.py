"""collapselab: what happens to a language model that learns from its own output, and what stops it?"""

__version__ = "0.1.0"
