"""Export: a generation's samples and model, each with a card."""
