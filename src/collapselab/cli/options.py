"""Options of a verb: defaults < YAML files from left to right < the command line, in whatever order it names them.

argparse writes the help. Files and command line are read by the same rules (`yaml_files`), so that an unknown key, a
forbidden null and a wrong type each give a one-line error. Hyphens and underscores in an option's name are equivalent.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import typing
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

from collapselab.config import RunConfig, UserError
from collapselab.config.keys import describe_type, docstrings, fill_name, from_tree, nearest, run_keys, sections
from collapselab.config.plugins import check_loaded
from collapselab.config.values import flatten, home
from collapselab.store.yaml_files import as_text, dump_yaml, load_yaml, read, taken_for

BUILT_IN = ("help", "config", "plugin", "print_config")
PATHS = (
    *("config", "runs_dir", "data_dir", "out", "plot", "papers", "base", "fork", "run", "target"),
    *("model.pretrained", "corpus.tokenizer"),
)
"""Keys and options that may name a file or folder, in which `~` is expanded."""


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse's own hides a full disk

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


class _Formatter(argparse.HelpFormatter):
    """Formatter that appends type and default to the help of an option."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return (f"{action.help} ({action.about})" if hasattr(action, "about") else str(action.help)).replace("%", "%%")


class Options:
    """Parser of one verb. A YAML file may hold its `keys`; other options are for the command line only."""

    def __init__(self, verb: str, description: str):
        self.parser = _Parser(
            prog=f"collapselab {verb}", description=description, formatter_class=_Formatter, allow_abbrev=False
        )
        self.kinds: dict[str, Any] = {}
        self.keys: dict[str, str] = {}
        self.switches: set[str] = set()
        self.line_only: dict[str, str] = {}
        self.sections: set[str] = set()
        self.positional: str | None = None
        self.origin: dict[str, Path] = {}  # YAML file of a value
        self.parser.add_argument("--config", help="YAML file; may be given several times, later ones win")
        self.parser.add_argument(
            "--plugin", help="your Python file to load (docs/extending.md); may be given several times"
        )
        self.parser.add_argument("--print-config", action="store_true", help="show the settings that result, and stop")

    def add_run_keys(self) -> None:
        classes = sections()
        self._add_fields(RunConfig, "", self.parser)
        for name, config in classes.items():
            outer, _, inner = name.rpartition(".")
            title = docstrings(classes.get(outer, RunConfig))[inner].rstrip(".")
            self._add_fields(config, f"{name}.", self.parser.add_argument_group(title))
        self.keys |= run_keys()
        self.sections = set(classes)

    def add_class(self, config: type) -> None:
        """Add an option for each field of a flat dataclass, with the field's docstring as help."""
        self._add_fields(config, "", self.parser)
        self.keys |= config.__annotations__

    def _add_fields(self, config: Any, prefix: str, group: Any) -> None:
        types, texts, standard = typing.get_type_hints(config), docstrings(config), config()
        for name in (field.name for field in dataclasses.fields(config)):
            if dataclasses.is_dataclass(types[name]):
                continue
            annotation = config.__annotations__[name]
            self._add(group, f"{prefix}{name}", types[name], annotation, getattr(standard, name), texts[name])

    def _add(self, group: Any, name: str, kind: Any, annotation: str, default: Any, text: str) -> None:
        words = ["true", "false"] if kind is bool else re.findall(r"""["']([^"']+)["']""", annotation)
        shown = f"{{{','.join(words)}}}" if words else name.rpartition(".")[2].upper()
        action = group.add_argument(as_option(name), default=default, metavar=shown, help=text)
        action.about = f"type: {describe_type(annotation)}, default: {as_text(default)}"
        self.kinds[name] = kind

    def add(self, name: str, kind: Any, default: Any, help_text: str, *, line_only: bool = False) -> None:
        """Add an option `--name`; with `line_only`, YAML files cannot hold it."""
        annotation = kind.__name__ if isinstance(kind, type) else str(kind)
        self._add(self.parser, name, kind, annotation, default, help_text)
        (self.line_only if line_only else self.keys)[name] = annotation

    def add_switch(self, name: str, help_text: str) -> None:
        self.parser.add_argument(as_option(name), action="store_true", help=help_text)
        self.switches.add(name)

    def add_positional(self, name: str, help_text: str, *, nargs: str | None = None) -> None:
        self.parser.add_argument(name, help=help_text, nargs=nargs)
        self.positional = name
        self.keys[name] = "str"

    def parse_run(self, arguments: list[str]) -> tuple[Any, RunConfig]:
        """Parse gathered options into values and a configuration; --print-config refuses values that cannot work, too."""
        parsed = self.parse(without_printing(arguments))
        config = run_config(parsed)
        if PRINT in arguments:
            self.parse(arguments)  # prints, and exits
        return parsed, config

    def parse_with_overrides(self, arguments: list[str], *names: str) -> tuple[argparse.Namespace, list[str]]:
        """Gather and parse a command line that may override keys or sections of a run; return those options unparsed."""
        keys = {key: annotation for key, annotation in run_keys().items() if key.partition(".")[0] in names}
        self.keys |= keys
        self.sections = sections().keys() & names
        gathered = self.gather(arguments)
        overrides = [item for item in gathered if item.startswith("--") and key_of(item) in keys]
        return self.parse([item for item in gathered if item not in overrides]), overrides

    # --- from a command line to values ------------------------------------------------------------------------------

    def gather(self, arguments: list[str]) -> list[str]:
        """Turn YAML files into options before those of the command line, and `--key value` into `--key=value`."""
        files, line = self._command_line(arguments)
        settings: dict[str, str] = {}
        for path in files:
            values = self._from_yaml(Path(path))
            settings |= {key: f"--{key}={_expanded(key, as_text(value))}" for key, value in values.items()}
            self.origin |= dict.fromkeys(values, Path(path))
        for item in line:
            self.origin.pop(key_of(item), None)
        if self.positional in settings:
            value = settings.pop(self.positional).split("=", 1)[1]
            line = line if any(not item.startswith("--") for item in line) else [value, *line]
        typed = {key_of(item) for item in line}  # overrule the files
        return [*(option for key, option in settings.items() if key not in typed), *line]

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse gathered options. With --print-config, print them and raise SystemExit."""
        for item in arguments:
            if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
                raise UserError(
                    f"{_hyphened(item)!r}: holds a NUL or is not UTF-8, but settings are text; remove it, or rename"
                )
            if item.startswith("--out=") and not item[6:].strip():  # pathlib would take the working directory
                raise UserError(f"--out {item[6:]!r}: name a folder, or a file if the verb writes one")
        for action in self.parser._actions:
            action.required = action.required and PRINT not in arguments
        parsed = self.parser.parse_args([_hyphened(item) if item.startswith("--") else item for item in arguments])
        if "plugins" in self.kinds:  # first, as other keys may have choices from plugins
            given = any(key_of(item) == "plugins" for item in arguments)
            forked = getattr(parsed, "fork", None) is not None  # may go on with a plugin that was mended
            parsed.plugins = check_loaded(self._value("plugins", parsed.plugins) if given else [], changed=forked)
        for key in dict.fromkeys(map(key_of, arguments)):
            if key in self.kinds and key != "plugins":
                setattr(parsed, key, self._value(key, getattr(parsed, key)))
        if PRINT in arguments:
            sys.stdout.write(dump_yaml(_nested({k: v for k, v in vars(parsed).items() if k not in BUILT_IN})))
            raise SystemExit(0)
        return parsed

    def _value(self, key: str, text: str) -> Any:
        try:
            return read(text, self.kinds[key])
        except UserError as error:  # of a value in a mapping
            wrong = f"{key}: {error}"
        except ValueError as error:
            annotation = (self.keys | self.line_only)[key]
            shown = f"{as_option(key) if key in self.line_only else key}={text!r}"
            wrong = f"{shown}: must be {describe_type(annotation)}{taken_for(str(error))}"
        raise UserError(f"--config {self.origin[key]}: {wrong}" if key in self.origin else wrong)

    def _command_line(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        files, line = [], []
        names = [*self.keys, *self.line_only, *self.switches, *BUILT_IN]
        rest = iter(arguments)
        for item in rest:
            if not item.startswith("--") or item == "--":
                line.append(_expanded(self.positional, item) if item[:1] != "-" else item)
                continue
            typed, has_value, value = item[2:].partition("=")
            key = typed.replace("-", "_")
            if key not in names or key == self.positional:
                options = [as_option(name)[2:] for name in names]
                raise UserError(f"--{typed}: no such option{nearest(as_option(key)[2:], options)}; `--help` lists them")
            if key in self.switches or key in ("help", "print_config"):
                if has_value:
                    raise UserError(f"--{typed}: takes no value")
                line.append(f"--{key}")
                continue
            if not has_value:
                value = next(rest, "--")
                if value.startswith("--"):
                    raise UserError(f"--{typed}: give a value, as in --{typed}=VALUE")
            value = _expanded(key, value)
            if key == "config":
                files.append(value)
            elif key != "plugin":  # main has loaded it
                line.append(f"--{key}={value}")
        return files, line

    def _from_yaml(self, path: Path) -> dict[str, Any]:
        flat: dict[str, Any] = {}

        def walk(tree: dict[Any, Any], prefix: str) -> None:
            for key, value in tree.items():
                name = f"{prefix}{key}"
                if name in self.sections:
                    if value is not None and not isinstance(value, dict):
                        raise UserError(f"--config {path}: {name}={value!r}: holds several keys, not one value")
                    walk(value or {}, f"{name}.")
                elif name in {*self.line_only, *self.switches, "plugin"}:
                    if value not in (None, False):
                        raise UserError(f"--config {path}: {name}: give it on the command line, as {as_option(name)}")
                elif name not in self.keys:
                    within = [str(k) for k in value][:1] if isinstance(value, dict) else []
                    name = ".".join([name, *within])
                    raise UserError(f"--config {path}: {name}: no such key{nearest(name, self.keys)}")
                elif name in flat:
                    raise UserError(f"--config {path}: {name}: appears twice; keep one")
                elif value is None and "None" not in self.keys[name]:
                    raise UserError(f"--config {path}: {name}=null: needs a value; leave the key out for its default")
                elif isinstance(value, list | dict) and self.keys[name].startswith("str"):
                    raise UserError(f"--config {path}: {name}={value!r}: must be {describe_type(self.keys[name])}")
                else:
                    flat[name] = value

        tree = load_yaml(path, as_written=True)
        if isinstance(tree.get("arms"), dict) and "arms" not in self.keys:
            raise UserError(f"--config {path}: arms: is for experiments; run the file with `collapselab experiment`")
        walk(tree, "")
        return flat


PRINT = "--print_config"


def as_option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def key_of(item: str) -> str:
    """Key of an option, `--key=value` or `--key`; the result for a positional argument is meaningless."""
    return item[2:].partition("=")[0]


def without_printing(arguments: list[str]) -> list[str]:
    return [item for item in arguments if item != PRINT]


def _hyphened(item: str) -> str:
    name, equals, value = item.partition("=")
    return f"{as_option(name[2:])}{equals}{value}"


def _expanded(key: str | None, text: str) -> str:
    """Expand `~` in the value of a key that names a file or folder. Raises UserError for an unknown user. A corpus's pattern is
    only checked, because it is part of a chain's identity as written."""
    kind, colon, path = text.rpartition(":") if key == "corpus.source" else ("", "", text)
    if key not in PATHS and kind != "path":
        return text
    expanded = home(str(key), path)
    return text if colon else expanded


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *within, name = key.split(".")
        reduce(lambda part, section: part.setdefault(section, {}), within, tree)[name] = value
    return tree


def run_config(namespace: Any) -> RunConfig:
    """Build the configuration from parsed values."""
    tree = _nested(vars(namespace))
    values = {f.name: tree[f.name] for f in dataclasses.fields(RunConfig)}
    values |= {key: fill_name(tree[key], flatten(values)) for key in ("name", "arm")}
    return from_tree(RunConfig, values)


def config_from(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read the configuration in one YAML file, such as a chain's config.yaml, with options that override it."""
    options = Options("run", "")
    options.add_run_keys()
    return run_config(options.parse(options.gather(["--config", str(path), *(overrides or [])])))


def arms_of(
    options: Options, gathered: list[str], arms: dict[str, Any]
) -> tuple[dict[str, RunConfig], dict[str, list[str]]]:
    """Return the configuration of each arm (the common settings and the arm's overrides), and the keys that it overrides.

    Args:
        gathered: the common settings as options, from files and from the command line.
        arms: {name: {key: value, ...}}, keys dotted or nested.
    """
    keys = run_keys()
    typed = {key_of(item) for item in gathered} - options.origin.keys()
    configs: dict[str, RunConfig] = {}
    changes = {}
    for arm, settings in arms.items():
        if not isinstance(settings or {}, dict):
            raise UserError(f"arms.{arm}={settings!r}: must hold keys and values, as in {{mixing.regime: accumulate}}")
        overrides: dict[str, Any] = {}
        for key, value in (settings or {}).items():
            flat = flatten({str(key): value})
            if twice := sorted(flat.keys() & overrides.keys()):
                raise UserError(f"arms.{arm}.{twice[0]}: appears twice; keep one")
            overrides |= flat
        for key, value in overrides.items():
            if key in ("name", "arm", "seed", "runs_dir", "plugins") or key not in keys:
                hint = "; it is the same for all arms" if key in keys else nearest(key, keys)
                raise UserError(f"arms.{arm}.{key}: not a key that an arm may set{hint}")
            if value is None and "None" not in keys[key]:
                raise UserError(f"arms.{arm}.{key}=null: needs a value; leave the key out for its default")
            if key in typed:
                raise UserError(f"{as_option(key)}: arm {arm} sets this key; change the arm in its file")
        common = [item for item in gathered if key_of(item) in keys and key_of(item) not in overrides]
        own = [f"--{key}={_expanded(key, as_text(value))}" for key, value in overrides.items()]
        try:
            config = run_config(options.parse([*common, f"--arm={arm}", *own]))
        except UserError as error:
            raise UserError(f"arms.{arm}: {error}") from None
        if config.arm in configs:  # by a {key} in its name
            raise UserError(f"arms.{arm}: another arm has the same name, {config.arm!r}; give each arm its own name")
        configs[config.arm], changes[config.arm] = config, list(overrides)
    return configs, changes
