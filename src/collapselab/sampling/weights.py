"""Weights of the engine's families, refilled in place for each generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from collapselab.models.network import LanguageModel
from collapselab.sampling import layout_gpt2, layout_llama
from collapselab.sampling.draw import GROUP
from collapselab.sampling.layout import EngineShape, EngineWeights

# Modules of the families, by class of network.
LAYOUTS: dict[str, Any] = {"GPT2LMHeadModel": layout_gpt2, "LlamaForCausalLM": layout_llama}


def unsupported(net: Any) -> str | None:
    """Return why the engine cannot run this network, or None. Options that change a family's arithmetic are checked by name."""
    name = type(net).__name__
    why: str | None = LAYOUTS[name].unsupported(net) if name in LAYOUTS else name
    return why


def shape_of(model: LanguageModel) -> EngineShape:
    net = model.net
    tied = net.get_output_embeddings().weight is net.get_input_embeddings().weight
    shape: EngineShape = LAYOUTS[type(net).__name__].shape(net, model.vocab, tied)
    return shape


def packed(model: LanguageModel, length: int) -> EngineWeights:
    """Return the model's weights in the engine's layout: views or copies, of the model's dtype and device."""
    ends = model.net.get_input_embeddings(), model.net.get_output_embeddings()
    embed, head = (_rows(end.weight, model.vocab) for end in ends)
    weights: EngineWeights = LAYOUTS[type(model.net).__name__].packed(model.net, length, embed, head)
    return weights


def _rows(matrix: Tensor, vocab: int) -> Tensor:
    """Pad the true rows with zeros to a multiple of 64."""
    return F.pad(matrix[:vocab], (0, 0, 0, -vocab % GROUP))


class Weights:
    """A model's weights on the sampling device, shared by engines, for sequences of `length` tokens (prompt included)."""

    def __init__(self, model: LanguageModel, length: int, device: torch.device, dtype: torch.dtype):
        self.shape, self.length, self.device, self.dtype = shape_of(model), length, device, dtype
        self.unused = None if model.unused is None else model.unused.to(device)
        with torch.no_grad():
            self.packed = packed(model, length - 1)  # the last token of a sequence is written, never read
            for holder in (self.packed, *self.packed.blocks):
                for name, value in vars(holder).items():
                    if isinstance(value, Tensor):
                        kept = torch.float32 if name == "turns" else dtype
                        setattr(holder, name, value.to(device, kept, copy=True).contiguous())
            if self.shape.tied:
                self.packed.head = self.packed.embed

    def load(self, model: LanguageModel) -> bool:
        """Copy another generation's weights into the same memory; return False if their shapes differ."""
        if unsupported(model.net) is not None or shape_of(model) != self.shape:
            return False
        fresh, here = packed(model, self.length - 1).tensors(), self.packed.tensors()
        if [t is not None and t.shape for t in fresh] != [t is not None and t.shape for t in here]:
            return False
        with torch.no_grad():
            for new, old in zip(fresh, here, strict=True):
                if old is not None and new is not None:
                    old.copy_(new)
        return True
