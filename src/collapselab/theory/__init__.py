"""Exact theory of a chain.

`discrete`, `pipeline`, `survivors`, `tails`, `entropy`: sampling noise of an exact learner. `sharpening`: bias of temperature
and truncation without noise. `gaussian`, `regression`, `selection`: other learners, filters, several models. `finite`, `votes`,
`verified`: judges of finite groups and of small learners, which `tables` simulates. `laws` lists the laws for the verb;
`simulate`, which alone imports torch, checks the others by simulation.

Generation g of a chain is step t = g + 1 of the literature's recursions: generation 0, trained on N real documents, is t = 1
with alpha = 1. Arrays by generation have row g for generation g.
"""
