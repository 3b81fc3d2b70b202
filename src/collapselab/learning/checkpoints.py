"""Checkpoints within a generation: weights, the optimiser's moments and the step. Batches and dropout are functions of seed
and step, so nothing else is needed to resume bit-identically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from collapselab.models.network import LanguageModel, copy_weights, true_state
from collapselab.runtime.errors import as_os_errors
from collapselab.store.folders import read_json, write_json

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(folder: Path, model: LanguageModel, optimizer: torch.optim.AdamW, progress: dict[str, Any]) -> None:
    """Write state.safetensors and progress.json. Raise OSError if the disk is full."""
    state = optimizer.state_dict()["state"]
    tensors = {f"optimizer.{i}.{name}": state[i][name].contiguous() for i in state for name in MOMENTS}
    seen: set[int] = set()
    for name, tensor in true_state(model).items():
        if tensor.data_ptr() not in seen:  # tied weights are stored once
            seen.add(tensor.data_ptr())
            tensors[f"model.{name}"] = tensor.contiguous()
    with as_os_errors():
        save_file(tensors, folder / "state.safetensors")
    write_json(folder / "progress.json", progress)


def load(folder: Path, model: LanguageModel, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Load a checkpoint into a model and an optimiser of the same shape; return its progress."""
    tensors = load_file(folder / "state.safetensors")
    copy_weights({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}, model)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    progress: dict[str, Any] = read_json(folder / "progress.json")
    return progress
