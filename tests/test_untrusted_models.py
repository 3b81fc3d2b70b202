"""Untrusted folders of models and tokenizers: forbidden content is refused, unopened and within seconds."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Lab
from helpers import waited_for
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from collapselab.config import UserError
from collapselab.corpus import tokenizers, trial
from collapselab.corpus.tokenizers import bytes_tokenizer, load_tokenizer
from collapselab.models import pretrained
from collapselab.models.network import load, pretrained_tokenizer, weights_digest

LONGEST = 20  # seconds that anything here may take; what hangs would take for ever


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    net = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256))
    net.save_pretrained(tmp_path / "model")
    bytes_tokenizer().save(tmp_path / "model")
    return tmp_path / "model"


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        yield
    said = str(caught.value)
    assert "\n" not in said and all(part in said for part in parts), said
    assert len(said) <= 300 or str(Path("/tmp")) in said  # a test's own paths are long
    assert time.monotonic() - began < LONGEST


def each_way(folder: Path) -> list[Callable[[], Any]]:
    """Every way in which a model folder is read."""
    name = str(folder)
    return [
        lambda: load(name),
        lambda: load(name, random_weights=1),
        lambda: pretrained.size_of(name),
        lambda: pretrained_tokenizer(name),
    ]


def index(folder: Path, names: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    content = {"metadata": {}, "weight_map": names if not isinstance(names, str) else dict.fromkeys(weights, names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch stolen",)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "../model.safetensors", "/etc/passwd", "sub/x.safetensors", "gone.safetensors", 7, None],
)
def test_an_index_names_safetensors_of_its_own_folder(name: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "sub" / "x.safetensors")
    index(folder, name if isinstance(name, str) else {"transformer.wte.weight": name})
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    for way in each_way(folder):
        with refused("model.safetensors.index.json"):
            way()
    assert not Path("stolen").exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', "{", "[" * 9999])
def test_an_index_that_is_none(content: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with refused("model.safetensors.index.json"):
        load(str(folder))


def test_weights_in_several_files_are_read(folder: Path) -> None:
    whole = load(str(folder))
    whole.net.save_pretrained(folder.parent / "parts", max_shard_size="5KB")
    assert len(list((folder.parent / "parts").glob("*.safetensors"))) > 1
    assert weights_digest(load(str(folder.parent / "parts"))) == weights_digest(whole)


def test_no_other_file_is_named_by_a_configuration(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(pickle.dumps(Evil()))
    settings = json.loads((folder / "config.json").read_text())
    for name in ("weights.bin", "../model/model.safetensors"):
        (folder / "config.json").write_text(json.dumps(settings | {"transformers_weights": name}))
        with refused("transformers_weights"):
            load(str(folder))


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"})
    )
    for way in each_way(folder):
        with refused("adapter_config.json"):
            way()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json", "anything"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_not_opened(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket is short
        socket.socket(socket.AF_UNIX).bind(name)
        os.chdir(here)
    else:
        (folder / name).symlink_to("/dev/zero")
    ways = [*each_way(folder), lambda: load_tokenizer(str(folder))]
    child = os.fork()  # one that waits for ever is ended
    if not child:
        code = 1
        try:
            for way in ways:
                with refused(name, "a pipe, a device or a socket"):
                    way()
            code = 0
        finally:
            os._exit(code)
    assert waited_for(child, LONGEST) == 0


def test_links_to_files_are_followed(folder: Path) -> None:
    """As the cache of the Hugging Face hub has them."""
    linked = folder.parent / "snapshot"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert load(str(linked)).vocab == pretrained_tokenizer(str(linked)).size == 257


def test_a_link_to_nothing_is_said(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("gone")
    with refused("cannot be loaded"):
        load(str(folder))


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "vocab_size", "n_positions"])
@pytest.mark.parametrize("value", [0, -1, 0.0, 0.5])
def test_a_network_without_parts_is_refused(key: str, value: float, folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {key: value}))
    for way in each_way(folder):
        with refused("config.json", key):
            way()


# --- tokenizers ---------------------------------------------------------------------------------------------------------


def changed(folder: Path, **parts: Any) -> Path:
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | parts))
    return folder


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(before: dict[str, str], after: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": before, "content": after}


TOO_MUCH = [
    {"pre_tokenizer": split("(a|aa|b|[a-z ])+$x")},
    {"pre_tokenizer": split("(x+x+)+y")},
    {"normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 40}},
    {"normalizer": replace({"String": "rare"}, "b" * 10**6)},
    {"normalizer": replace({"Regex": "z?"}, "b" * 1000)},
    {"normalizer": {"type": "Prepend", "prepend": "b" * 1000}},
    {"decoder": {"type": "Sequence", "decoders": [replace({"String": "e"}, "e" * 10**6)]}},
]


@pytest.mark.parametrize("parts", TOO_MUCH)
def test_a_tokenizer_that_takes_for_ever_or_multiplies_text_is_refused(
    parts: dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed(folder, **parts)
    for way in (lambda: load_tokenizer(str(folder)), lambda: pretrained_tokenizer(str(folder))):
        with refused(str(folder)):
            way()
    assert "panicked" not in capfd.readouterr().err


def test_a_token_of_a_million_characters_is_refused(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"] |= {"a" * 10**6: 257}
    changed(folder, model=state["model"])
    with refused("1,000,000 characters"):
        load_tokenizer(str(folder))


def test_a_trial_that_hangs_or_eats_memory_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 1)

    class Turns:
        def encode(self, *_: Any, **__: Any) -> Any:
            while True:
                pass

    class Eats:
        def encode(self, *_: Any, **__: Any) -> Any:
            return bytearray(10 * trial.TRIAL_BYTES)

    assert "more than 1 seconds" in trial.try_page(Turns())  # type: ignore[arg-type]
    assert trial.try_page(Eats())  # type: ignore[arg-type]


def test_a_panic_later_on_is_one_line(folder: Path) -> None:
    """Of a pattern that only some text sets off: 40 times a letter that no page has so often."""
    changed(folder, pre_tokenizer=split("(ж|жж)+$q"))
    tokenizer = load_tokenizer(str(folder))
    with refused("cannot encode this text"):
        tokenizer.encode(["ж" * 60])


# --- the hub ------------------------------------------------------------------------------------------------------------


def test_a_name_on_the_hub_is_answered_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lab: Lab) -> None:
    """Without a network: what is looked for is said, and the end comes within seconds, however many files are wanted."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    tokenizers.hub_folder.cache_clear()
    began = time.monotonic()
    code, _, said = lab("run", "--model.pretrained=gpt2", f"--runs_dir={tmp_path / 'runs'}")
    assert code == 2 and time.monotonic() - began < 15
    first, last = said.splitlines()
    assert "asking the Hugging Face hub" in first
    assert "model.pretrained='gpt2'" in last and "name a folder" in last and len(last) <= 300


def test_what_the_cache_of_the_hub_holds_is_read_as_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And held to the same rules."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--some--one"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    tokenizers.hub_folder.cache_clear()
    assert load("some/one").vocab == 257
    assert pretrained_tokenizer("some/one").name == load_tokenizer("some/one").name == "some/one"
    index(place / "snapshots" / ("0" * 40), "pytorch_model.bin")
    with refused("model.safetensors.index.json"):
        load("some/one")
    tokenizers.hub_folder.cache_clear()
