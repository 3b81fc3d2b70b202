"""The rooms: who may import whom, and a few habits that a reader relies on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "collapselab"

# A room is a folder, or a module that lies beside them. A room imports rooms of the rows above its own here, and no others.
ROWS = (
    "config seeds",
    "metrics theory runtime",
    "store hf_metrics",
    "languages",
    "corpus tasks",
    "models",
    "mixing",
    "learning sampling evaluation tracking watch report",
    "judging",
    "chain export",
    "experiments bench",
    "reproduce",
    "cli",
    "__main__",
)  # fmt: skip
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms.split()}
ONLY_IN = {
    "wandb": {"tracking"},
    "accelerate": {"runtime"},
    "transformers": {
        "models",
        "corpus",
        "sampling",
        "cli",
        "runtime",
        "bench",
    },  # cli silences it, runtime notes its version
    "datasets": {"corpus", "hf_metrics"},
    "evaluate": {"hf_metrics"},
    "sacrebleu": {"metrics"},
    "mauve": {"metrics"},
    "reasoning_gym": {"languages"},
    "matplotlib": {"report", "theory", "reproduce"},
    "triton": {"sampling"},
    "plotly": {"report"},
    "rich": {"cli", "experiments", "bench", "theory"},
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


def test_every_room_has_a_row() -> None:
    rooms = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms == set(ROW)


def test_a_room_imports_the_rooms_above_it_and_no_others() -> None:
    """So no stage imports another, and the loop does not know the report."""
    wrong = [
        f"{path} imports {name}"
        for path, room, name in imports()
        if (to := [*name.split("."), ""][1]) in ROW and name.startswith("collapselab.") and to != room
        if ROW[to] >= ROW.get(room, len(ROWS))
    ]
    assert not wrong, wrong


def test_packages_have_their_code_in_files_with_names() -> None:
    """Of a few lines at most, where a reader looks first."""
    for path in SOURCE.glob("*/__init__.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 35, path


def test_every_stage_of_the_layout_can_be_made() -> None:
    from collapselab.chain.stages import STAGES
    from collapselab.store import layout

    chain = layout.Chain(Path("nowhere"))
    assert list(STAGES) == list(layout.GIVES) and chain.text == "samples"
    assert set(chain.stages(0)) == set(STAGES) - {*layout.OPTIONAL}
    assert set(chain.stages(1)) == set(STAGES) - {*layout.OPTIONAL, *layout.ONCE}
    chain.judged = True
    assert chain.stages(0) == list(STAGES) and chain.text == "judged"


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
    assert calls == [("main.py", "os.execv")], calls  # itself once more, where Python would read names as ASCII


def test_every_yaml_loader_of_ours_is_a_safe_one() -> None:
    import yaml

    from collapselab.store.yaml_files import _UniqueKeys

    assert issubclass(_UniqueKeys, yaml.SafeLoader)
    assert not any("python/" in str(tag) for tag in _UniqueKeys.yaml_constructors)


def test_modules_and_functions_are_short_enough_to_read() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
    assert len((SOURCE / "chain" / "run.py").read_text().splitlines()) <= 120  # reads top to bottom as the algorithm


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
