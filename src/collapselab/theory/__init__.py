"""What exact theory predicts for a chain, beside what is measured.

`discrete`, `pipeline`, `survivors`, `tails`, `entropy`: sampling noise of an exact learner. `sharpening`: the bias of
temperature and truncation without noise. `gaussian`, `regression`, `selection`: other learners, filters, several models.
`laws` names them all for the verb; `simulate` (torch) checks them by chance.

Generation g of a chain is step t = g + 1 of the literature's recursions: generation 0, trained on N real documents,
is t = 1 with alpha = 1. Arrays by generation have row g for generation g. No module but `simulate` imports torch.
"""
