"""The report of a run: one page, figures and tables."""
