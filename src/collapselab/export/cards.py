"""Cards (README.md) of an exported model and of its samples: YAML front matter for the Hugging Face hub, then Markdown.

A run may be untrusted: its values appear only in code spans and JSON strings, where YAML and Markdown do not interpret
them, and without paths of this machine.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from collapselab import __version__
from collapselab.config import RunConfig, as_dict
from collapselab.config.families import FAMILIES
from collapselab.config.identity import DEFAULTS, deciding
from collapselab.config.values import flatten
from collapselab.metrics import HEADLINE
from collapselab.mixing.sources import written_by
from collapselab.report.files import ChainFiles
from collapselab.report.tables import markdown
from collapselab.runtime.console import inert
from collapselab.store.checks import whole
from collapselab.store.layout import run_root
from collapselab.store.seals import Recorded, recorded

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9._-]{1,96})?")
LONGEST = 300  # characters shown of a value
MACHINE = ("collapselab", "torch", "transformers", "python", "device", "precision")
TAGS = ("collapselab", "model-collapse")
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")


def model_card(chain: ChainFiles, config: RunConfig, generation: int) -> str:
    """Return the README.md of a model folder."""
    base, text = _base(config), config.corpus.source.removeprefix("hub:")
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base is not None:
        head["base_model"] = base
    if config.corpus.source.startswith("hub:") and _is_on_hub(text):
        head["datasets"] = [text]
    head["tags"] = [*TAGS, *(["trained-on-synthetic-text"] if _mixed(chain, config, generation) else [])]
    module = FAMILIES[config.model.family].module
    first = f"import {module}  # makes this table of counts known to transformers\n" if module != "transformers" else ""
    use = (
        f"{first}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("model")\n'
        'tokenizer = AutoTokenizer.from_pretrained("model")'
    )
    parts = [
        f"# {_title(chain, generation)}",
        "A causal language model of an experiment on model collapse.",
        *_learnt(chain, config, generation),
        f"```python\n{use}\n```",
        *_body(chain, config, generation),
        "## Intended use",
        "Research on what happens to models that learn from the output of models: comparing generations, measuring what is "
        "lost, continuing the chain. It is not a model for applications: nothing was done to make its text true, safe or "
        "useful, and a model of a late generation may be far worse than its loss on its own training set suggests.",
        _licence(config),
    ]
    return _page(head, parts)


def samples_card(chain: ChainFiles, config: RunConfig, generation: int, meta: dict[str, Any]) -> str:
    """Return the README.md of a folder of samples.

    Args:
        meta: meta.json of the samples.
    """
    count = meta["sequences"]
    given = "" if config.sampling.source == "real" else ": what later generations were trained on"
    head = {
        "pretty_name": _plain(f"{run_root(chain.path).name}, {chain.name}, generation {generation}: samples"),
        "task_categories": ["text-generation"],
        "size_categories": [SIZES[min(max(0, len(str(count)) - 3), len(SIZES) - 1)]],
        "tags": [*TAGS, "synthetic"],
    }
    prompt = {
        "real": "were copied from real text",
        "previous": "were copied from this generation's training set",
        "separator": "are the separator that begins a document",
    }[meta["prompt_from"]]
    begin = (
        f"The first `prompt_tokens` = {meta['prompt_length']} tokens of each sequence {prompt}; no model wrote them."
        if meta["prompt_length"]
        else "A sequence has no prompt of its own: the model was given the separator that begins a document."
    )
    parts = [
        f"# Samples of {_title(chain, generation)}",
        "> **Warning: this is synthetic text.** A language model wrote it, not people. It may be wrong, repetitive or "
        "senseless. A model that is trained on it learns from a model; say so wherever you pass it on.",
        f"{count:,} sequences of {meta['length']} tokens (the last may be cut), {meta['tokens']:,} tokens in all, written by "
        f"the model of generation {generation}. {begin}",
        *_learnt(chain, config, generation),
        '```python\nfrom datasets import load_dataset\n\nsamples = load_dataset("samples", split="train")\n```',
        markdown(
            ["column", "holds"],
            [
                ["`text`", "the sequence as text; separators between documents are blank lines"],
                ["`tokens`", f"its token ids, prompt included{given}"],
                ["`sequence`", "its number in this generation, from 0"],
                ["`generation`, `arm`, `seed`", "which model wrote it"],
                ["`prompt_tokens`", "how many tokens at its head no model wrote"],
            ],
        ),
        *_body(chain, config, generation),
        "## Intended use",
        "Research on the text of models that learn from models. It is not human language; do not train models for general "
        "use on it.",
        _licence(config),
    ]
    return _page(head, parts)


def _body(chain: ChainFiles, config: RunConfig, generation: int) -> list[str]:
    """Return the part that both cards share: training sets, metrics, settings and provenance."""
    ours, first = chain.rows[generation]["metrics"], chain.rows[0]["metrics"]
    real, headline = chain.reference["metrics"], [key for key in HEADLINE.values() if key in ours]
    values = [
        [_code(key), *(f"{found[key]:.6g}" if key in found else "–" for found in (ours, first, real))]
        for key in [*headline, *sorted(ours.keys() - set(headline))]
    ]
    ledger = chain.ledgers[generation]
    counts = [[_code(source), *(f"{entry[k]:,}" for k in ("set", "shown", "loss"))] for source, entry in ledger.items()]
    shares = ", ".join(f"{row['generation']}: {row['real_share']:.4g}" for row in chain.rows[: generation + 1])
    control = ""
    if config.sampling.source == "real":
        control = " An all-real control: fresh real text replaced all other text (`control_...` below)."
    machine = [f"{key} {_code(chain.environment[key])}" for key in MACHINE if key in chain.environment]
    fork = (recorded(chain.path) or Recorded({}, {})).facts.get("fork")
    taken = f" Generations 0 to {whole(fork['at'])} were taken from another chain." if fork else ""
    command = f"collapselab run --config settings.yaml\ncollapselab export RUN --generation {generation}"
    return [
        "## What it was trained on",
        f"Real text: {_code(_portable(config.corpus.source))}. Share of real text in the training set of each generation: "
        f"{shares}.{control}",
        f"Tokens in the training set of generation {generation}, by source: in the set, shown (all epochs), in the loss.",
        markdown(["source", "set", "shown", "in the loss"], counts),
        "## Metrics",
        f"Generation {generation} beside generation 0, and beside fresh real text at the same budget where that has a value.",
        markdown(["metric", f"generation {generation}", "generation 0", "real text"], values),
        "These numbers hold under this protocol, and compare with others of the same protocol only:",
        markdown(["protocol", "value"], [[_code(key), _code(value)] for key, value in sorted(chain.protocol.items())]),
        "## Settings",
        "What differs from the defaults; paths are shortened.",
        f"````yaml\n{settings(config)}````",
        "## How it was made",
        f"By {', '.join(machine)}, with the settings above in settings.yaml, and exported by version "
        f"{__version__}:{taken}",
        f"```\n{command}\n```",
    ]


def settings(config: RunConfig) -> str:
    """List the settings that differ from their defaults as YAML, one dotted key per line."""
    ours = flatten(as_dict(config))
    kept = {k: v for k, v in ours.items() if k in ("name", "arm", "seed", "generations") or v != DEFAULTS[k]}
    return "".join(f"{key}: {_value(value)}\n" for key, value in kept.items() if key not in deciding("nothing"))


def _value(value: Any) -> str:
    """Format a setting as one line of YAML; text as JSON, which escapes line breaks."""
    if isinstance(value, str):
        return inert(json.dumps(_portable(value)))
    return yaml.safe_dump(value, default_flow_style=True, width=1 << 20).partition("\n")[0]


def _learnt(chain: ChainFiles, config: RunConfig, generation: int) -> list[str]:
    """Describe the training text by its ledger, with a warning if models wrote part of it."""
    mixed = _mixed(chain, config, generation)
    real = "text of an artificial language" if config.corpus.drawn else "real text"
    base = config.model.pretrained if config.model.start != "scratch" else None
    began = (
        f" It began as {_code(_portable(base))}; the data that one was trained on is not recorded here." if base else ""
    )
    if not mixed:
        return [f"The model was trained on {real} alone, not on text of this chain's models.{began}"]
    share = _synthetic(chain, generation)
    earlier = ""
    if config.model.start == "previous":
        earlier = (
            f" Its weights continue those of generation {generation - 1}; such text came in with generation {mixed[0]}."
        )
    return [
        f"> **Warning: the model was trained on synthetic text.** {100 * share:.3g} % of the tokens in the training set "
        f"of generation {generation} were written by earlier models of the same chain.{earlier} Such models forget what is "
        "rare, and may write text that is bland or incoherent.",
        f"The rest of its training set is {real}.{began}" if share < 1 else began,
    ]


def _mixed(chain: ChainFiles, config: RunConfig, generation: int) -> list[int]:
    """Find the generations whose model-written training text this one's weights have seen."""
    seen = range(generation + 1) if config.model.start == "previous" else [generation]
    return [g for g in seen if _synthetic(chain, g)]


def _synthetic(chain: ChainFiles, generation: int) -> float:
    """Share of a training set's tokens that models wrote, in [0, 1]; prompts do not count."""
    ledger = chain.ledgers[generation]
    everything = sum(entry["set"] for entry in ledger.values())
    written = sum(entry["set"] for source, entry in ledger.items() if written_by(source) is not None)
    return float(written / max(1, everything))


def _licence(config: RunConfig) -> str:
    whose = "of the real text" + (" and of the model it began as" if config.model.pretrained else "")
    return f"No licence is stated here: it depends on that {whose}. Add one before this is published."


def _title(chain: ChainFiles, generation: int) -> str:
    return f"{_code(run_root(chain.path).name)}, {_code(chain.name)}, generation {generation}"


def _base(config: RunConfig) -> str | None:
    """Hub name of the model whose weights the chain started from; None if there is none."""
    name = config.model.pretrained
    return name if name is not None and config.model.start != "scratch" and _is_on_hub(name) else None


def _is_on_hub(name: str) -> bool:
    return HUB_NAME.fullmatch(name) is not None and not name.endswith(".gguf") and not Path(name).exists()


def _portable(value: Any) -> Any:
    """Remove this machine's folders from a setting: `path:/home/me/texts/*.txt` becomes `path:.../*.txt`."""
    if not isinstance(value, str):
        return value
    kind, rest = ("path:", value[5:]) if value.startswith("path:") else ("", value)
    local = kind or rest.startswith(("/", "~", ".")) or os.path.exists(rest)  # noqa: PTH110 - any text, however long
    return f"{kind}.../{rest.rstrip('/').rpartition('/')[2]}" if local and "/" in rest else value


def _plain(value: Any) -> str:
    """One line of text without control characters, cut at LONGEST."""
    line = " ".join(inert(str(value)[:LONGEST]).split())
    return line if len(str(value)) <= LONGEST else f"{line}..."


def _code(value: Any) -> str:
    """Format a value as a code span, where Markdown and HTML are not interpreted; pipes are escaped for tables."""
    line = _plain(value).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else "–"


def _page(head: dict[str, Any], parts: list[str]) -> str:
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(filter(None, map(str.strip, parts))) + "\n"
    )
