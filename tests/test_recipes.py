"""The recipes of docs/architecture.md ("To add") are followed: in a copy of the sources a few lines are added to the files that a
recipe names, and what they add works in `run`, in the report and in the docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import Forked
from test_plugins import SMALL
from transformers import AutoConfig

from collapselab.store.layout import read_metrics

TO_ADD = (ROOT / "docs" / "architecture.md").read_text().partition("\n## To add\n")[2]


@dataclass
class Recipe:
    bullet: str
    """How its item in "To add" begins."""
    most: int
    """Source files that it may touch."""
    changes: dict[str, list[tuple[str, str]]]
    """By file, as the item names it: (line before which, what is added). A file that is not there is made."""
    options: dict[str, object] = field(default_factory=dict)
    """Of the run that uses it."""
    docs: str = ""
    """What docs/configuration.md says of it, once it is made again."""


RECIPES = {
    "regime": Recipe(
        "a mixing regime",
        2,
        {
            "mixing/regimes.py": [
                (
                    "def _written(",
                    "def newest(inputs: Inputs) -> np.ndarray:\n"
                    "    return _written(inputs, inputs.draw('mixture'), inputs.generation - 1, inputs.size)\n\n\n",
                ),
                (
                    '    "expanding": Regime(',
                    '    "newest": Regime(newest, Law(none="mixing.regime=newest has none"), needs=lambda o: Needs(0, o.size)),\n',
                ),
            ],
            "config/generations.py": [('\n    ] = "replace"', ', "newest"')],
        },
        {"mixing.regime": "newest"},
        "incremental, expanding or newest |",
    ),
    "schedule": Recipe(
        "a schedule",
        1,
        {
            "config/schedules.py": [
                ('        "list": lambda', '        "half": lambda c, g, last: 0.5,\n')
            ]
        },
        {"mixing.schedule": "half"},
        "power, half, list or null |",
    ),
    "metric": Recipe(
        "a metric of a text",
        2,
        {
            "metrics/lengths.py": [
                (
                    "",
                    '"""Lengths."""\n\n\ndef length_sums(texts: list[str]) -> dict[str, int]:\n'
                    '    return {"characters": sum(map(len, texts)), "texts": len(texts)}\n\n\n'
                    "def length_values(sums: dict[str, int]) -> dict[str, float]:\n"
                    '    return {"length": sums["characters"] / sums["texts"]}\n',
                )
            ],
            "evaluation/samples.py": [
                (
                    "from collapselab.metrics.ngrams import (",
                    "from collapselab.metrics.lengths import length_sums, length_values\n",
                ),
                (
                    '    "diversity/overlap": Metric(',
                    '    "diversity/lengths": Metric(lambda text: length_sums(text.texts), length_values),\n',
                ),
            ],
            "docs/metrics.md": [("| `compression_ratio`", "| `length` | mean per sequence | characters | – | by hand |\n")],
        },
    ),
    "family": Recipe(
        "a family of transformers",
        1,
        {
            "config/families.py": [
                (
                    '    "bigram": Family(',
                    '    "gpt_neox": Family("GPTNeoXForCausalLM", lambda model, context: {\n'
                    '        "hidden_size": model.width, "intermediate_size": 4 * model.width, "num_hidden_layers": model.layers,\n'
                    '        "num_attention_heads": model.heads, "max_position_embeddings": context,\n'
                    '        "tie_word_embeddings": model.tie_embeddings,\n    }, rotary=True),\n',
                )
            ]
        },
        {"model.family": "gpt_neox", "model.layers": 1, "model.width": 16, "model.heads": 2},
        "gpt2, llama, gpt_neox or bigram |",
    ),
    "verb": Recipe(
        "a verb",
        1,
        {
            "cli/count.py": [
                (
                    "",
                    '"""Count the chains of a run."""\n\nfrom __future__ import annotations\n\nfrom pathlib import Path\n\n'
                    "from collapselab.cli.common import RUN_HELP, make_options\n\n\n"
                    "def main(arguments: list[str]) -> int:\n"
                    '    options = make_options("count")\n    options.add_positional("run", RUN_HELP)\n'
                    "    parsed = options.parse(options.gather(arguments))\n"
                    "    from collapselab.store.layout import find_chains\n\n"
                    "    print(len(find_chains(Path(parsed.run))))\n    return 0\n",
                )
            ]
        },
        docs="### `count`\n\nCount the chains of a run.",
    ),
}  # fmt: skip


class Copy:
    """A copy of what the package is made of, and a shell in it."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder = folder
        for part in ("src", "docs", "scripts"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name, additions in recipe.changes.items():
            path = folder / name if name.startswith("docs/") else folder / "src" / "collapselab" / name
            text = path.read_text() if path.exists() else ""
            for before, added in additions:
                assert not before or text.count(before) == 1, f"{name}: {before}"
                text = text.replace(before, added + before) if before else added
            path.write_text(text)

    def __call__(self, *command: str) -> str:
        """What a command line of the lab or a script prints."""
        if command[0].startswith("scripts/"):
            environment = os.environ | {"PYTHONPATH": str(self.folder / "src")}
            done = subprocess.run(
                [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout
        output = self.folder / "said.log"
        output.write_text("")
        forked = Forked(*command, output=output, call=self.lab)
        assert forked.wait(120) == 0, forked.said()
        return forked.said()

    def lab(self, arguments: list[str]) -> int:
        """Runs in a process forked from the test's: libraries are those of that process, the package is that of the copy."""
        os.chdir(self.folder)
        for name in [*sys.modules]:
            if name.partition(".")[0] == "collapselab":
                del sys.modules[name]
        AutoConfig.register = partial(AutoConfig.register, exist_ok=True)  # the table of counts, a second time
        sys.path.insert(0, str(self.folder / "src"))
        from collapselab.cli import main
        from collapselab.report import figures

        figures.png = lambda figure: b""  # drawing takes half of a report's time
        assert Path(main.__file__).is_relative_to(self.folder)
        return main.main(arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_works(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    (item,) = [item for item in re.split(r"^- ", TO_ADD, flags=re.M) if item.startswith(recipe.bullet + ":")]
    sources = [path for path in recipe.changes if not path.startswith("docs/")]
    named = all(path in item or (path.partition("/")[0] + "/`") in item for path in recipe.changes)
    assert len(sources) <= recipe.most and named, item

    copy = Copy(tmp_path, recipe)
    flat = SMALL | {"generations": 1, "name": "tried", "seed": 1} | recipe.options
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
    copy("run", *options)
    rows, settings = (
        read_metrics(tmp_path / "runs/tried/arm=main/seed=1"),
        {k: v for k, v in flat.items() if k in recipe.options},
    )
    page = (tmp_path / "runs/tried/report/index.html").read_text()
    assert all(f"{key.rpartition('.')[2]}: {value}\n" in page for key, value in settings.items())
    copy("scripts/config_docs.py")
    copy("scripts/config_docs.py", "--check")
    assert recipe.docs in (tmp_path / "docs/configuration.md").read_text()
    if name in ("regime", "schedule"):
        assert rows[1]["real_share"] == {"regime": 0.0, "schedule": 0.5}[name]
    if name == "metric":
        assert (
            all(row["metrics"]["diversity/length"] > 0 for row in rows) and "<option>diversity/length</option>" in page
        )
        assert "| `length` |" in (tmp_path / "docs/metrics.md").read_text()
    if name == "verb":
        assert copy("count", "runs/tried") == "1\n"
        assert "count       count the chains of a run" in copy("--help")
