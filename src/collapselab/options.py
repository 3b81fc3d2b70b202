"""Options of a verb: defaults < YAML files from left to right < the command line, wherever a value stands on it.

jsonargparse knows the types and the help. YAML files become options of their own here, so that an unknown key, a null where
none is allowed and a wrong type are each one clear line.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import re
import sys
import typing
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse

from collapselab.config import RunConfig, UserError
from collapselab.identity import filled, flatten
from collapselab.yaml_files import load_yaml

BUILT_IN = ("help", "config", "print_config")


def _sections() -> dict[str, Any]:
    """{"corpus": CorpusConfig, ...}: the fields of RunConfig that hold keys of their own."""
    return {
        f.name: f.default_factory
        for f in dataclasses.fields(RunConfig)
        if f.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(f.default_factory)
    }


def run_keys() -> dict[str, str]:
    """Every key of a run, dotted, with its annotation as written."""
    sections = _sections()
    keys = {name: text for name, text in RunConfig.__annotations__.items() if name not in sections}
    return keys | {f"{s}.{name}": text for s, made in sections.items() for name, text in made.__annotations__.items()}


@cache
def _docstrings(made: type) -> dict[str, str]:
    """{field: the string that stands under it}, of a dataclass."""
    tree = ast.parse(inspect.getsource(sys.modules[made.__module__]))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == made.__name__)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


class Options:
    """The parser of one verb. `keys` may stand in a YAML file; other options only on the command line."""

    def __init__(self, verb: str, description: str):
        self.parser: Any = jsonargparse.ArgumentParser(
            prog=f"collapselab {verb}", description=description, exit_on_error=False, allow_abbrev=False
        )
        self.parser.add_argument(
            "--config", action="config", help="YAML file; may be given several times, later ones win"
        )
        self.keys: dict[str, str] = {}
        self.switches: set[str] = set()
        self.line_only: dict[str, str] = {}
        self.sections: set[str] = set()
        self.positional: str | None = None
        self.origin: dict[str, Path] = {}  # the YAML file that a value came from

    def add_run_keys(self) -> None:
        sections = _sections()
        self._add_fields(RunConfig, "", self.parser)
        for name, made in sections.items():
            title = _docstrings(RunConfig)[name].rstrip(".")
            self._add_fields(made, f"{name}.", self.parser.add_argument_group(title))
        self.keys |= run_keys()
        self.sections = set(sections)

    def add_class(self, made: type) -> None:
        """An option for each field of a flat dataclass; its docstring is the help."""
        self._add_fields(made, "", self.parser)
        self.keys |= made.__annotations__

    def _add_fields(self, made: Any, prefix: str, group: Any) -> None:
        # jsonargparse's own reader of classes takes three times as long, a third of what --help may take
        types, texts, standard = typing.get_type_hints(made), _docstrings(made), made()
        for name in (
            field.name for field in dataclasses.fields(made) if not dataclasses.is_dataclass(types[field.name])
        ):
            group.add_argument(f"--{prefix}{name}", type=types[name], default=getattr(standard, name), help=texts[name])

    def accept(self, keys: dict[str, str]) -> None:
        """Keys that are passed on, not parsed here."""
        self.keys |= keys

    def add(self, name: str, kind: Any, default: Any, help_text: str, *, line_only: bool = False) -> None:
        """An option `--name`; with `line_only` it cannot stand in a YAML file."""
        self.parser.add_argument(f"--{name}", type=kind, default=default, help=help_text)
        (self.line_only if line_only else self.keys)[name] = getattr(kind, "__name__", str(kind))

    def add_switch(self, name: str, help_text: str) -> None:
        self.parser.add_argument(f"--{name}", action="store_true", help=help_text)
        self.switches.add(name)

    def add_positional(self, name: str, help_text: str, *, nargs: str | None = None) -> None:
        self.parser.add_argument(name, type=str, help=help_text, nargs=nargs)
        self.positional = name
        self.keys[name] = "str"

    def parse_run(self, arguments: list[str]) -> tuple[Any, RunConfig]:
        """Parsed values and the configuration they make. What cannot work is refused under --print_config too."""
        shown = [item for item in arguments if item != "--print_config"]
        parsed = self.parse(shown)
        config = run_config(parsed)
        if len(shown) < len(arguments):
            self.parse(arguments)  # prints, and exits
        return parsed, config

    # --- from a command line to values ------------------------------------------------------------------------------

    def gather(self, arguments: list[str]) -> list[str]:
        """The command line with its YAML files turned into options before it, and `--key value` into `--key=value`."""
        files, line = self._command_line(arguments)
        settings: dict[str, str] = {}
        for path in files:
            found = self._from_yaml(Path(path))
            settings |= {key: f"--{key}={_as_option(value)}" for key, value in found.items()}
            self.origin |= dict.fromkeys(found, Path(path))
        for item in line:
            self.origin.pop(item[2:].split("=", 1)[0], None)
        if self.positional in settings:
            value = settings.pop(self.positional).split("=", 1)[1]
            line = line if any(not item.startswith("--") for item in line) else [value, *line]
        typed = {item[2:].split("=", 1)[0] for item in line}  # what a file says of these does not count
        return [*(option for key, option in settings.items() if key not in typed), *line]

    def parse(self, arguments: list[str]) -> Any:
        """Parsed values of gathered options, as a jsonargparse namespace. Raises UserError, one line."""
        for item in arguments:
            if not _is_text(item):
                raise UserError(f"{item[:80]!r}: holds a NUL or half a character, which no file can keep; take it out")
            if item.startswith("--out=") and not item[6:].strip():  # the folder that one stands in, to pathlib
                raise UserError(f"--out {item[6:]!r}: name a folder, or a file where the verb writes one")
        try:
            return self.parser.parse_args(arguments)
        except UserError:
            raise
        except (argparse.ArgumentError, ValueError, TypeError) as error:
            raise self._one_line(error, arguments) from None

    def _command_line(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        files, line = [], []
        known = [*self.keys, *self.line_only, *self.switches, *BUILT_IN]
        rest = iter(arguments)
        for item in rest:
            if not item.startswith("--") or item == "--":
                line.append(item)
                continue
            key, has_value, value = item[2:].partition("=")
            if key not in known or key == self.positional:
                raise UserError(f"--{key}: no such option{nearest(key, known)}; `--help` lists them")
            if key in self.switches:
                if has_value:
                    raise UserError(f"--{key}: takes no value")
                line.append(item)
            elif key in ("help", "print_config"):
                line.append(item)
            else:
                if not has_value:
                    value = next(rest, "--")
                    if value.startswith("--"):
                        raise UserError(f"--{key}: give a value, as in --{key}=VALUE")
                if key == "config":
                    files.append(value)
                else:
                    line.append(f"--{key}={value}")
        return files, line

    def _from_yaml(self, path: Path) -> dict[str, Any]:
        flat: dict[str, Any] = {}

        def refuse(name: str, known: Iterable[str]) -> UserError:
            return UserError(f"--config {path}: {name}: no such key{nearest(name, known)}")

        def walk(tree: dict[Any, Any], prefix: str) -> None:
            for key, value in tree.items():
                name = f"{prefix}{key}"
                if name in self.sections:
                    if value is not None and not isinstance(value, dict):
                        raise UserError(f"--config {path}: {name}={value!r}: holds several keys, not one value")
                    walk(value or {}, f"{name}.")
                elif name in {*self.line_only, *self.switches}:
                    if value not in (None, False):
                        raise UserError(f"--config {path}: {name}: give it on the command line, as --{name}")
                elif name not in self.keys:
                    within = [str(k) for k in value][:1] if isinstance(value, dict) else []
                    raise refuse(".".join([name, *within]), self.keys)
                elif name in flat:
                    raise UserError(f"--config {path}: {name}: stands twice; keep one")
                elif value is None and "None" not in self.keys[name]:
                    raise UserError(f"--config {path}: {name}=null: needs a value; leave the key out for its default")
                else:
                    flat[name] = value

        walk(load_yaml(path), "")
        return flat

    def _one_line(self, error: Exception, arguments: list[str]) -> UserError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                return cause
            cause = cause.__cause__ or cause.__context__
        text = " ".join(str(error).split())
        found = re.search(r'[Pp]arser key "([^"]+)"|argument --([\w.]+)', text)
        key = (found.group(1) or found.group(2)) if found else ""
        if annotation := (self.keys | self.line_only).get(key):
            given = [a.split("=", 1)[1] for a in arguments if a.startswith(f"--{key}=")]
            said = (
                f"{'--' * (key in self.line_only)}{key}={given[-1] if given else ''!r}: must be {in_words(annotation)}"
            )
            return UserError(f"--config {self.origin[key]}: {said}" if key in self.origin else said)
        return UserError(f"{text[:300]}; see `{self.parser.prog} --help`")


def run_config(namespace: Any) -> RunConfig:
    """The dataclass from parsed values."""
    values, sections = namespace.as_dict(), _sections()
    made = {f.name: values[f.name] for f in dataclasses.fields(RunConfig)}
    made |= {key: filled(values[key], flatten(made)) for key in ("name", "arm")}
    return RunConfig(**{key: sections[key](**value) if key in sections else value for key, value in made.items()})


def config_from(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """The configuration in a chain's config.yaml, with options that override it."""
    options = Options("run", "")
    options.add_run_keys()
    gathered = options.gather(["--config", str(path), *(overrides or [])])
    if not any(item.startswith("--corpus.shared_passages=") for item in gathered):
        gathered.append("--corpus.shared_passages=keep")  # an older version, which left held-out text whole
    return run_config(options.parse(gathered))


def arms_of(
    options: Options, gathered: list[str], arms: dict[str, Any]
) -> tuple[dict[str, RunConfig], dict[str, list[str]]]:
    """The configuration of each arm, which is the common settings and what the arm overrides; and the keys of the latter.

    Args:
        gathered: the common settings as options, from files and from the command line.
        arms: {name: {key: value, ...}}, keys dotted or nested.
    """
    known = run_keys()
    typed = {item[2:].split("=", 1)[0] for item in gathered} - options.origin.keys()
    made, changes = {}, {}
    for arm, settings in arms.items():
        if not isinstance(settings or {}, dict):
            raise UserError(f"arms.{arm}={settings!r}: must hold keys and values, as in {{mixing.regime: accumulate}}")
        overrides: dict[str, Any] = {}
        for key, value in (settings or {}).items():
            here = flatten({str(key): value})
            if twice := sorted(here.keys() & overrides.keys()):
                raise UserError(f"arms.{arm}.{twice[0]}: stands twice; keep one")
            overrides |= here
        for key, value in overrides.items():
            if key in ("name", "arm", "seed", "runs_dir") or key not in known:
                hint = "; it is the same for all arms" if key in known else nearest(key, known)
                raise UserError(f"arms.{arm}.{key}: not a key that an arm may set{hint}")
            if value is None and "None" not in known[key]:
                raise UserError(f"arms.{arm}.{key}=null: needs a value; leave the key out for its default")
            if key in typed:
                raise UserError(f"--{key}: arm {arm} sets it, and so would be another arm; change the arm in its file")
        common = [item for item in gathered if item[2:].split("=", 1)[0] in known]
        line = [*common, f"--arm={arm}", *(f"--{key}={_as_option(value)}" for key, value in overrides.items())]
        try:
            made[str(arm)] = run_config(options.parse(line))
        except UserError as error:
            raise UserError(f"arms.{arm}: {error}") from None
        changes[str(arm)] = list(overrides)
    return made, changes


def nearest(key: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", or nothing."""
    known = list(known)
    found = [k for k in known if "." not in key and k.split(".")[-1] == key][:1]  # `lr` for `training.lr`
    found = found or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _is_text(item: str) -> bool:
    return "\0" not in item and not any("\ud800" <= character <= "\udfff" for character in item)


def _as_option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def in_words(annotation: str) -> str:
    """`Literal["a", "b"] | None` becomes `a, b or null`."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
    choices = re.findall(r"""["']([^"']+)["']""", annotation)
    plain = [
        names.get(p.strip(), p.strip()) for p in re.sub(r"Literal\[[^]]*\]", "", annotation).split("|") if p.strip()
    ]
    parts = choices + [("a list of numbers" if p.startswith("list") else p) for p in plain]
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
