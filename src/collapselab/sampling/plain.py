"""Simple, correct samplers for any architecture of transformers; the engine is tested against them.

A network's cache is used only after `cache_flaw` has decoded a few random sequences with it correctly. Otherwise each step
reads the whole text again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from collapselab.config import SamplingConfig, first_line
from collapselab.models.network import LanguageModel
from collapselab.models.pretrained import TOLERANCE, distance
from collapselab.runtime.parallel import out_of_memory
from collapselab.sampling.draw import draw, truncated, uniforms

# Not cuDNN's attention, which plans every new shape: with a growing cache each token has a new one.
ANY_LENGTH = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ROWS, WALK = 3, 64  # of the check: sequences, and tokens read one at a time

_flaws: WeakKeyDictionary[Any, dict[tuple[int, int, bool], str | None]] = WeakKeyDictionary()  # by network


class Reader:
    """Next-token logits (B, V) of a growing batch; with `cached` from the state that the network returns (keys and values, or its
    own), otherwise from the whole text."""

    def __init__(self, model: LanguageModel, *, cached: bool):
        self.model, self.cached = model, cached
        self.accepts = inspect.signature(model.net.forward).parameters
        self.carried: dict[str, Any] = {}
        self.text_BT: Tensor | None = None

    def read(self, ids_BT: Tensor) -> Tensor:
        """Append tokens (one or more per sequence) and return the logits after the last."""
        last = {"logits_to_keep": 1} if "logits_to_keep" in self.accepts else {}
        if not self.cached:
            self.text_BT = ids_BT if self.text_BT is None else torch.cat([self.text_BT, ids_BT], 1)
            return self.model.logits(self.text_BT, use_cache=False, **last)[:, -1]
        out = self.model.net(input_ids=ids_BT, use_cache=True, **self.carried, **last)
        self.carried = {name: value for name, value in out.items() if name in self.accepts and value is not None}
        return self.model.true_columns(out.logits[:, -1])

    def take(self, rows_B: Tensor) -> None:
        """Replace the rows of the batch by these of its rows."""
        if self.text_BT is not None:
            self.text_BT = self.text_BT[rows_B]
        for value in self.carried.values():
            value.reorder_cache(rows_B)


@torch.inference_mode()
def cache_flaw(
    model: LanguageModel, read: int, new: int, device: torch.device, *, reorders: bool = False
) -> str | None:
    """Return why `read` tokens must not be continued by `new` ones with the network's own cache (and with `reorders` by beam
    search), or None if that gives the logits of the whole text. Computed once per network."""
    flaws, case = _flaws.setdefault(model.net, {}), (read, new, reorders)
    if case not in flaws:
        with torch.autocast(device.type, enabled=False):
            flaws[case] = _examined(model, read, read + new - 1, device, reorders)
    return flaws[case]


def _examined(model: LanguageModel, read: int, longest: int, device: torch.device, reorders: bool) -> str | None:
    """Return the `cache_flaw` of texts of up to `longest` tokens: token by token from the shortest on, then the last tokens
    after most of the text at once (beyond any window), then from the shortest again. The second and third show leftovers of
    earlier texts."""
    draws = torch.Generator().manual_seed(0)
    for begin, steps in ((read, WALK), (max(read, longest - 2), 2), (read, 2)):
        text = torch.randint(model.vocab, (ROWS, longest), generator=draws).to(device)
        reader = Reader(model, cached=True)
        stop = min(longest, begin + steps)
        looks = {stop, *(begin + (1 << k) - 1 for k in range(steps.bit_length()))}
        at = 0
        for end in range(begin, stop + 1):
            try:
                logits = reader.read(text[:, at:end])
                if reorders:
                    reader.take(order := torch.arange(ROWS - 1, -1, -1, device=device))
                    logits, text = logits[order], text[order]
            except Exception as error:
                if isinstance(error, RuntimeError) and out_of_memory(error):
                    raise
                return f"it cannot be reused ({first_line(error)[:80]})"
            at = end
            if end in looks:
                right = Reader(model, cached=False).read(text[:, :end])
                if (off := distance(logits, right)) > TOLERANCE:
                    return f"after {end} tokens its logits are off by {off:.2g} of their spread"
    return None


def plain_writer(
    model: LanguageModel, config: SamplingConfig, key: int, read: int, new: int, precision: str, device: torch.device
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function that continues prompts (B, read) by `new` tokens, given the number of the first sequence."""

    def write(prompts: np.ndarray, first: int) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            if config.beams > 1:
                return beam_batch(model, prompts, new, config.beams, device)
            u = uniforms(key, range(first, first + len(prompts)), range(read, read + new))
            return write_batch(model, prompts, u, config, device)

    return write


@torch.inference_mode()
@sdpa_kernel(ANY_LENGTH)
def write_batch(
    model: LanguageModel, prompts_BP: np.ndarray, uniforms_BN: np.ndarray, config: SamplingConfig, device: torch.device
) -> np.ndarray:
    """Continue each prompt by N tokens. All sequences have equal length, so there is no padding.

    Args:
        prompts_BP: int64 (B, P), P >= 1.
        uniforms_BN: float64 (B, N): a random number for each token.

    Returns:
        int64 (B, N). An end-of-text token does not end a sequence.
    """
    read, new = prompts_BP.shape[1], uniforms_BN.shape[1]
    reader = Reader(model, cached=cache_flaw(model, read, new, device) is None)
    inputs = torch.from_numpy(prompts_BP).to(device)
    u_BN = torch.from_numpy(uniforms_BN).to(device)
    seen_BT = inputs
    written = []
    for step in range(new):
        token_B = draw(truncated(reader.read(inputs), seen_BT, config), u_BN[:, step])
        written.append(token_B)
        inputs = token_B.unsqueeze(1)
        if config.repetition_penalty != 1:
            seen_BT = torch.cat([seen_BT, inputs], 1)
    return torch.stack(written, 1).cpu().numpy()


@torch.inference_mode()
@sdpa_kernel(ANY_LENGTH)
def beam_batch(
    model: LanguageModel, prompts_BP: np.ndarray, tokens: int, beams: int, device: torch.device
) -> np.ndarray:
    """Continue each prompt by beam search, which keeps the `beams` best beginnings at every token. All have equal length, so
    there is no length penalty.

    Returns:
        int64 (B, tokens).
    """
    rows, read = prompts_BP.shape
    reader = Reader(model, cached=cache_flaw(model, read, tokens, device, reorders=True) is None)
    inputs = torch.from_numpy(prompts_BP).to(device).repeat_interleave(beams, 0)
    # At first all beams of a sequence are equal: only one may be continued.
    score_BK = torch.full((rows, beams), -torch.inf, device=device)
    score_BK[:, 0] = 0
    text_RN = inputs.new_empty(rows * beams, 0)
    first_B1 = torch.arange(rows, device=device).unsqueeze(1) * beams
    for _ in range(tokens):
        gain_BKV = reader.read(inputs).float().log_softmax(-1).view(rows, beams, -1)
        score_BK, best_BK = (score_BK.unsqueeze(2) + gain_BKV).flatten(1).topk(beams, dim=1)
        parent_R = (first_B1 + best_BK // gain_BKV.shape[2]).flatten()
        inputs = (best_BK % gain_BKV.shape[2]).view(-1, 1)
        text_RN = torch.cat([text_RN[parent_R], inputs], 1)
        reader.take(parent_R)
    return text_RN.view(rows, beams, tokens)[:, 0].cpu().numpy()
