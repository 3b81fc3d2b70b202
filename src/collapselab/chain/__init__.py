"""Chains: opening, stages, the loop over generations, and single stages run by hand."""
