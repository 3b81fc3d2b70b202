"""One chain: opening it, its stages, the loop over generations, and single stages by hand."""
