"""Language models: built by family and size, or loaded from a folder, a hub name or a GGUF file. Tables of counts
are a subclass (`CountedModel` in bigram.py).

The vocabulary is padded in memory only: `LanguageModel.logits` returns the true columns, so padding is never sampled, counted
or trained, and `publish` writes the model at its true size. The tokenizer decides which ids are tokens (`fitted`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from collapselab.config import ModelConfig, UserError, first_line
from collapselab.config.families import FAMILIES
from collapselab.corpus.tokenizers import SAFE, Tokenizer, load_tokenizer
from collapselab.models import families
from collapselab.models.pretrained import (
    cannot_be_loaded,
    check_vocabulary,
    check_weights,
    ends_of,
    keeps_own_head,
    locate,
)
from collapselab.runtime.console import Console
from collapselab.runtime.errors import as_os_errors
from collapselab.store.folders import write_json

# (last tokens int64 (B,), uniform numbers float64 (B, N)) -> new tokens int64 (B, N)
Continue = Callable[[np.ndarray, np.ndarray], np.ndarray]
# All names of dropout rates in configurations of transformers.
DROPOUTS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "activation_dropout", "dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip


@dataclass
class LanguageModel:
    """A transformers causal language model with `vocab` true entries in a padded vocabulary."""

    net: Any
    vocab: int
    unused: Tensor | None = None
    """bool (vocab,): ids that are no tokens, with logits -inf; None if every id is one."""
    trainable: ClassVar[bool] = True
    """Learned by gradients, from these weights on."""
    refills: ClassVar[bool] = True
    """Another model of its chain has the same size and can be read into its memory."""
    zeros: ClassVar[bool] = False
    """Probabilities can be 0 and losses infinite."""

    def logits(self, ids_BT: Tensor, net: Any = None, **options: Any) -> Tensor:
        """Return next-token logits over the true vocabulary, (B, T, vocab); `net` is the wrapped model in training."""
        return self.true_columns((net or self.net)(input_ids=ids_BT, **options).logits)

    def true_columns(self, logits: Tensor) -> Tensor:
        """Cut logits of the padded vocabulary to the true one; -inf for ids that are no tokens."""
        cut = logits[..., : self.vocab]
        return cut if self.unused is None else cut.masked_fill(self.unused.to(cut.device), -torch.inf)

    def features(self, ids_BT: Tensor) -> Tensor:
        """Return the input of `head`, (B, T, width), or the logits themselves if the head is not a single product."""
        if not self.causal:
            return self.logits(ids_BT, use_cache=False)
        out: Tensor = self.net.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return out

    def answer_features(self, ids_BT: Tensor, head: int, repeats: int = 1) -> Tensor:
        """Return `features` at the places that predict what follows a prompt, (B, T - head, ...).

        Args:
            head: tokens of the prompt. repeats: consecutive rows with the same prompt, which is read once for all of them where
                the family allows it.
        """
        if repeats == 1 or head == 1 or not self.causal:
            return self.features(ids_BT)[:, head - 1 : -1]
        cache = self.net.base_model(input_ids=ids_BT[::repeats, : head - 1], use_cache=True).past_key_values
        cache.batch_repeat_interleave(repeats)
        out: Tensor = self.net.base_model(input_ids=ids_BT[:, head - 1 : -1], past_key_values=cache).last_hidden_state
        return out

    def head(self, features: Tensor) -> Tensor:
        """Return logits over the true vocabulary, (..., vocab), for rows of `features`."""
        if not self.causal:
            return features
        weight = self.net.get_output_embeddings().weight
        if features.device.type == "cpu":  # on a GPU the padded product is faster, and slicing is free
            weight = weight[: self.vocab]
        return self.true_columns(torch.nn.functional.linear(features, weight))

    @property
    def causal(self) -> bool:
        """`Family.causal`: head rows can be sliced, and attention needs no mask, without changing the results."""
        return type(self.net).__name__ in {family.network for family in FAMILIES.values() if family.causal}

    def without_mask(self) -> None:
        """Use causal attention without a mask: transformers would build one while a compiled step is traced, which keeps torch
        from its flash kernel. For packed blocks only."""
        if self.causal:
            from transformers import AttentionInterface

            AttentionInterface.register("sdpa_causal", _causal)  # transformers builds no mask for this name
            self.net.set_attn_implementation("sdpa_causal")

    def check(self, missing: list[str], name: str) -> None:
        """Raise ValueError if a model that was loaded from untrusted files cannot be used.

        Args:
            missing: weights that no file has. name: of the model, for messages.
        """
        check_weights(self.net, missing)
        if keeps_own_head(self.net):
            Console(speaks=os.environ.get("RANK", "0") == "0").say(
                f"{name}: config.json ties the head to the embeddings, but the file has a head of its own; using that"
            )

    def continuer(self) -> Continue | None:
        """Return the function that continues sequences without an engine, if the model has one."""
        return None

    def scores(self, stream: np.ndarray, places_N: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (nll, correct) at these positions given only the token before each; None if the model reads more."""
        return None

    @property
    def parameters(self) -> int:
        """Parameters of the published model, without padding; for a table of counts, its counts."""
        rows = _vocabulary_tensors(self.net)
        extra = sum((len(t) - self.vocab) * (t.numel() // len(t)) for t in rows)
        return int(sum(p.numel() for p in self.net.parameters()) - extra)

    @property
    def nbytes(self) -> int:
        """Bytes of the published weights; tied weights count once."""
        return sum(tensor.nbytes for tensor in {t.data_ptr(): t for t in true_state(self).values()}.values())


def pretrained_tokenizer(pretrained: str) -> Tokenizer:
    """Load the tokenizer of a pretrained model."""
    folder, gguf_file = locate(pretrained)
    tokenizer = load_tokenizer(folder, gguf_file=gguf_file, key="model.pretrained")
    if not Path(pretrained).expanduser().exists() and not pretrained.startswith("package:"):
        tokenizer.name = pretrained  # on the hub
    return tokenizer


def load(pretrained: str, *, pad: int = 1, dropout: float = 0.0, random_weights: int | None = None) -> LanguageModel:
    """Load a pretrained model in float32.

    Args:
        pad: pad the vocabulary in memory to a multiple of this.
        dropout: replaces every dropout rate of its configuration.
        random_weights: seed of new random weights for its architecture.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    for family in FAMILIES.values():
        import_module(family.module)  # makes its networks known to the library
    folder, gguf_file = locate(pretrained, weights=random_weights is None)
    source = {"gguf_file": gguf_file} if gguf_file else {}
    info, options = {"missing_keys": list[str]()}, {"dtype": torch.float32, **SAFE}
    try:
        settings = AutoConfig.from_pretrained(folder, **source, **SAFE)
        for name in DROPOUTS:
            if hasattr(settings, name):
                setattr(settings, name, dropout)
        if random_weights is not None:
            with _seeded(random_weights):
                net = AutoModelForCausalLM.from_config(settings, **options)
        elif gguf_file:
            options |= {"quantization_config": GgufConfig(dequantize=True), **source}
            net, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
            if hasattr(net.config, "quantization_config"):
                del net.config.quantization_config  # from here on a plain float32 model
        else:
            net, info = AutoModelForCausalLM.from_pretrained(
                folder, config=settings, use_safetensors=True, output_loading_info=True, **options
            )
        model = _wrapped(net)
        model.check(sorted(info["missing_keys"]), pretrained)
        return _padded(model, pad)
    except Exception as error:
        raise cannot_be_loaded(pretrained, error) from None


def new(config: ModelConfig, *, vocab: int, separator: int, block: int, seed: int) -> LanguageModel:
    """Build a model of the configured family and size with random weights, in float32; a bigram model without counts. Raise
    UserError if it is too large for this machine's memory."""
    families.check_size(config, vocab=vocab, context=block)
    with _seeded(seed):
        net = families.untrained(config, vocab=vocab, separator=separator, context=config.context or block)
    return _padded(_wrapped(net), config.pad_vocabulary)


def start_weights(
    config: ModelConfig, *, previous: Path | None, tokenizer: Tokenizer, block: int, seed: int
) -> LanguageModel:
    """Return the model a generation starts from: `previous` (a published folder) if given, else base or new weights of `seed`."""
    if previous is not None:
        model = load(str(previous), pad=config.pad_vocabulary, dropout=config.dropout)
    elif config.pretrained is None:
        model = new(config, vocab=tokenizer.size, separator=tokenizer.separator, block=block, seed=seed)
    else:
        fresh = seed if config.start == "scratch" else None
        model = load(config.pretrained, pad=config.pad_vocabulary, dropout=config.dropout, random_weights=fresh)
        if not model.trainable:
            raise UserError(
                f"model.pretrained={config.pretrained!r}: a table of counts cannot be trained further; set it to null "
                "and model.family=bigram"
            )
    return fitted(model, tokenizer, config.pretrained)


def fitted(model: LanguageModel, tokenizer: Tokenizer, pretrained: str | None = None) -> LanguageModel:
    """Restrict a model to the tokenizer's tokens: columns beyond them (some published models are padded) and ids that the
    tokenizer skips are never sampled, trained or counted. An error names `pretrained`, the origin of the model."""
    check_vocabulary(model.vocab, tokenizer, pretrained)
    model.vocab, model.unused = tokenizer.size, None
    if tokenizer.unused:
        model.unused = torch.zeros(tokenizer.size, dtype=torch.bool)
        model.unused[tokenizer.unused] = True
    return model


def _causal(module: Any, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not _unfused(query, key):
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, *mask, **options)
        return out
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    summed = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=options.get("dropout", 0.0), scale=options.get("scaling"),
        is_causal=query.shape[2] > 1,
    )  # fmt: skip
    return summed.transpose(1, 2).contiguous(), None


def _unfused(query: Tensor, key: Tensor) -> bool:
    """Return True if torch has no fused kernel for heads that share keys: it would store all T x T products of a batch."""
    kind = query.device.type
    exact = query.dtype == torch.float32 and not torch.is_autocast_enabled(kind)  # autocast casts inside
    return kind == "cuda" and exact and query.shape[1] != key.shape[1]


class ModelCache:
    """Loader of published models (`load`, `fitted`) into the same memory: building one takes longer than reading its weights."""

    def __init__(self, pad: int, tokenizer: Tokenizer):
        self.pad, self.tokenizer = pad, tokenizer
        self.model: LanguageModel | None = None
        self.digest: str | None = None

    def read(self, folder: Path, digest: str) -> LanguageModel:
        """Return the model in `folder`; it is read only if `digest` differs from that of the last one."""
        weights = folder / "model.safetensors"
        # Very large models have several files.
        if self.model is None or not weights.is_file() or (digest != self.digest and not self.model.refills):
            self.model = fitted(load(str(folder), pad=self.pad), self.tokenizer)
        elif digest != self.digest:
            from safetensors.torch import load_file

            try:
                copy_weights(load_file(weights), self.model)
            except Exception as error:  # names, shapes, the file itself: several kinds
                raise UserError(f"{weights}: {first_line(error)}; remove its folder to rebuild it") from None
        self.digest = digest
        return self.model


def copy_weights(state: dict[str, Tensor], model: LanguageModel) -> None:
    """Copy true weights (of `true_state`) into a model of the same shape, in place.

    Raises RuntimeError if a weight is missing; tied ones may occur once.
    """
    own = true_state(model)
    filled = {own[name].data_ptr() for name in state}
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in filled]
    if missing:
        raise RuntimeError(f"weights are missing: {', '.join(missing)}")
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block; its state outside is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield


def _wrapped(net: Any) -> LanguageModel:
    own = getattr(net, "as_language_model", None)  # of a class that this lab defines
    model: LanguageModel = own() if own else LanguageModel(net, int(net.config.vocab_size))
    return model


def _padded(model: LanguageModel, multiple: int) -> LanguageModel:
    net, vocab = model.net, model.vocab
    if vocab % multiple and {len(tensor) for tensor in _vocabulary_tensors(net)} == {vocab}:
        with _seeded(0):  # the library draws values for the new rows; they are overwritten below
            net.resize_token_embeddings(-(-vocab // multiple) * multiple, mean_resizing=False)
        with torch.no_grad():
            for tensor in _vocabulary_tensors(net):
                tensor[vocab:] = 0  # no gradient ever reaches these rows, so they stay 0
    return model


def _vocabulary_tensors(net: Any) -> list[Tensor]:
    """Return the parameters with one row per token, each once: embeddings, head and the head's bias, if any."""
    head, embeddings = ends_of(net)
    tensors = [getattr(embeddings, "weight", None), getattr(head, "weight", None), getattr(head, "bias", None)]
    return list({tensor.data_ptr(): tensor for tensor in tensors if tensor is not None}.values())


def true_state(model: LanguageModel) -> dict[str, Tensor]:
    """Return the state dict without the padded rows of embeddings, head and its bias; views of the weights."""
    padded = {tensor.data_ptr() for tensor in _vocabulary_tensors(model.net)}
    state: dict[str, Tensor] = model.net.state_dict()
    return {name: tensor[: model.vocab] if tensor.data_ptr() in padded else tensor for name, tensor in state.items()}


def publish(model: LanguageModel, tokenizer: Tokenizer, folder: Path, facts: dict[str, Any]) -> None:
    """Write a model folder for `AutoModelForCausalLM.from_pretrained`: true size, safetensors, tokenizer."""
    padded = int(model.net.config.vocab_size)
    model.net.config.vocab_size = model.vocab
    model.net.config.bos_token_id = tokenizer.hf.bos_token_id
    model.net.config.eos_token_id = tokenizer.hf.eos_token_id
    if tokenizer.unused and getattr(model.net, "generation_config", None) is not None:  # for `generate`
        model.net.generation_config.suppress_tokens = tokenizer.unused
    try:
        with as_os_errors():
            model.net.save_pretrained(folder, state_dict=true_state(model))
            tokenizer.save(folder)
    finally:
        model.net.config.vocab_size = padded
    write_json(folder / "collapselab.json", facts)


def weights_digest(model: LanguageModel) -> str:
    """Compute the SHA-256 of names, shapes and values of the true weights."""
    total = hashlib.sha256()
    for name, tensor in sorted(true_state(model).items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()
