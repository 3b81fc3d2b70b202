"""The rooms: who may import whom, and a few habits that a reader relies on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "collapselab"

# Lower rows know nothing of higher ones (docs/architecture.md).
ROWS = {
    "config": 0, "identity": 0, "seeds": 0, "interrupts": 0, "schedules": 1, "languages": 1, "regimes": 1, "guards": 0, "memory": 1,
    "folders": 1, "rundir": 1, "console": 1, "parallel": 1, "bigram": 1, "tracking": 3, "lock": 2, "records": 2, "corpus": 2,
    "metrics": 2, "theory": 2, "families": 2, "faults": 2, "pretrained": 3, "modeling": 3, "mixing": 3, "supply": 4,
    "simulations": 5, "history": 3, "hf_metrics": 3, "training": 4, "sampling": 4, "evaluation": 4, "report": 4, "opening": 4,
    "space": 4, "watch": 4, "cards": 5, "chain": 5, "export": 6, "plan": 6, "standalone": 6, "bench": 6, "options": 6,
    "experiment": 6, "reproduce": 7, "commands": 8, "cli": 9, "__main__": 10, "yaml_files": 1,
}  # fmt: skip
ONLY_IN = {
    "wandb": {"tracking"},
    "accelerate": {"parallel"},
    "transformers": {
        "modeling",
        "pretrained",
        "bigram",
        "families",
        "corpus",
        "sampling",
        "commands",
        "parallel",
        "bench",
    },  # commands silences it, parallel notes its version
    "datasets": {"corpus", "hf_metrics"},
    "evaluate": {"hf_metrics"},
    "sacrebleu": {"metrics"},
    "mauve": {"metrics"},
    "matplotlib": {"report", "theory"},
    "triton": {"sampling"},
    "plotly": {"report"},
}


def imports() -> list[tuple[str, str, str]]:
    """(file, room, imported module) for every import in the package, also those inside functions."""
    found = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "collapselab":
                    names = [f"collapselab.{alias.name}" for alias in node.names]
                found += [(str(path), room, name) for name in names]
            elif isinstance(node, ast.Import):
                found += [(str(path), room, alias.name) for alias in node.names]
    return found


def test_every_module_has_a_row() -> None:
    rooms = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms == set(ROWS)


def test_rows_import_only_rows_below() -> None:
    for path, room, name in imports():
        parts = name.split(".")
        if (
            parts[0] == "collapselab"
            and len(parts) > 1
            and parts[1] in ROWS
            and parts[1] != room
            and room != "__init__"
        ):
            allowed = ROWS[parts[1]] < ROWS[room] or (
                ROWS[parts[1]] == ROWS[room]
                and room in ("identity", "guards", "rundir", "modeling", "mixing", "history", "corpus")
            )
            assert allowed, f"{path} imports {name}"


def test_stages_do_not_import_each_other() -> None:
    stages = {"training", "sampling", "evaluation"}  # all three read the mixture's files through mixing
    for path, room, name in imports():
        if room in stages and name.startswith("collapselab."):
            assert name.split(".")[1] not in stages - {room}, f"{path} imports {name}"


def test_libraries_stay_in_their_rooms() -> None:
    for path, room, name in imports():
        library = name.split(".")[0]
        assert room in ONLY_IN.get(library, {room}), f"{path} imports {name}"


PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pandas.read_pickle"}
SHELLS = {"subprocess", "pty", "commands", "popen2", "runpy", "code"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}  # as calls: `training.compile` is a key
CALLS = {
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "tempfile.mktemp"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "pd.read_pickle"),
    *("np.load", "np.save", "np.savez", "np.savez_compressed"),  # raw arrays and JSON instead
    *(f"yaml.{name}" for name in ("unsafe_load", "full_load", "load_all", "Loader", "UnsafeLoader", "FullLoader")),
}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def test_nothing_reads_or_writes_pickles_or_runs_strangers_code() -> None:
    """Of files. The pipes of multiprocessing and the object collectives of torch.distributed pickle between our own processes,
    in memory: nobody else can write there, and nothing of it reaches a file."""
    shells, calls = set(), []
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                names = {a.name for a in node.names} | {f"{module}.{a.name}" for a in node.names} | {module}
                assert not names & PICKLES, f"{path}:{node.lineno} {names & PICKLES}"
                if {a.name for a in node.names} != {"CalledProcessError"}:  # which starts nothing
                    shells |= {(path.relative_to(SOURCE).parts[0], name) for name in names & SHELLS}
            if isinstance(node, ast.Name | ast.Attribute):
                if dotted(node) in CALLS:
                    calls.append((path.name, dotted(node)))
                assert not dotted(node).endswith((".to_pickle", ".read_pickle")), f"{path}:{node.lineno} {dotted(node)}"
            if isinstance(node, ast.keyword):
                fixed = node.value.value if isinstance(node.value, ast.Constant) else None
                assert node.arg not in ("shell", "allow_pickle", "trust_remote_code"), f"{path}:{node.value.lineno}"
                assert node.arg != "autoescape" or fixed is True, f"{path}:{node.value.lineno}"
                assert node.arg != "weights_only" or fixed is True, f"{path}:{node.value.lineno}"
                assert node.arg != "use_safetensors" or fixed is True, f"{path}:{node.value.lineno}"
            if isinstance(node, ast.Call):
                assert dotted(node.func) not in BUILT_IN, f"{path}:{node.lineno} {dotted(node.func)}"
            if isinstance(node, ast.Call) and dotted(node.func).endswith("jinja2.Environment"):
                assert "autoescape" in {k.arg for k in node.keywords}, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and dotted(node.func) == "yaml.load":
                assert [dotted(a) for a in node.args[1:]] == ["_UniqueKeys"], f"{path}:{node.lineno}"
        text = path.read_text()
        assert text.count("trust_remote_code") == text.count('"trust_remote_code": False'), path
    assert shells == {("bench", "subprocess")}, shells  # git and the machine's name
    assert calls == [("cli.py", "os.execv")], calls  # itself once more, where Python would read names as ASCII


def test_every_yaml_loader_of_ours_is_a_safe_one() -> None:
    import yaml

    from collapselab.store.yaml_files import _UniqueKeys

    assert issubclass(_UniqueKeys, yaml.SafeLoader)
    assert not any("python/" in str(tag) for tag in _UniqueKeys.yaml_constructors)


def test_modules_are_short_enough_to_read() -> None:
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path


def test_importing_the_package_is_light() -> None:
    code = "import sys, collapselab; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_product_never_names_the_developers_folder() -> None:
    for path in [*SOURCE.rglob("*"), *(ROOT / "configs").rglob("*.yaml"), *(ROOT / "scripts").glob("*")]:
        if path.is_file() and path.suffix not in (".pyc",):
            assert "../shared" not in path.read_text(encoding="utf-8"), path


def test_every_path_that_the_readme_names_exists() -> None:
    import re

    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"(?:scripts|configs|docs|data)/[\w./-]+\w", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert len(named) > 8 and not missing, missing
