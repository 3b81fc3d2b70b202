"""`collapselab theory`: every law from the command line, without torch, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Lab

from collapselab.theory import discrete
from collapselab.theory.laws import LAWS, used
from collapselab.theory.parameters import LawParameters


def evaluated(lab: Lab, *arguments: str) -> dict:
    code, out, err = lab("theory", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("name", LAWS)
def test_every_law_runs_with_its_defaults(lab: Lab, name: str) -> None:
    found = evaluated(lab, name)
    rows = 100 if name in ("agents", "amdahl") else 51
    assert all(len(values) == rows for values in found["columns"].values())
    assert all(v is not None for values in found["columns"].values() for v in values)
    assert found["columns"][found["index"]][:2] == ([1, 2] if rows == 100 else [0, 1])
    assert set(found["parameters"]) == set(used(name)) <= set(LawParameters.__annotations__)
    assert found["says"] and found["assumes"] and found["source"]


def test_every_parameter_belongs_to_a_law() -> None:
    assert {key for name in LAWS for key in used(name)} == set(LawParameters.__annotations__)


def test_the_values_are_those_of_the_schedule_and_size_asked_for(lab: Lab) -> None:
    line = ("--schedule", "geometric", "--ratio", "0.9", "--documents", "100", "--generations", "99")
    found = evaluated(lab, "mixture", *line)
    assert found["columns"]["r"] == pytest.approx(
        discrete.mixture([0.9**g for g in range(100)], 100).tolist(), rel=1e-12
    )
    assert [round(found["columns"]["r"][t - 1], 3) for t in (10, 44, 100)] == [0.985, 0.865, 0.516]
    assert evaluated(lab, "mixture", "--documents=1000", "--generations=800")["facts"]["half_life_t"] == 727
    listed = evaluated(lab, "pipeline", "--schedule", "list", "--values", "[0.5, 0.2]", "--generations", "2")
    assert listed["columns"]["r"] == discrete.stratified([1, 0.5, 0.2], 100).tolist()
    reused = evaluated(lab, "pipeline", "--real", "reuse", "--schedule", "constant", "--start", "0.05")
    assert (
        reused["columns"]["r"][-1]
        < evaluated(lab, "pipeline", "--schedule=constant", "--start=0.05")["columns"]["r"][-1]
    )
    kept = evaluated(lab, "pipeline", "--regime", "accumulate", "--documents", "10")
    assert kept["columns"]["r"] == pytest.approx(discrete.accumulate(10, 51).tolist(), rel=1e-12)
    drawn = evaluated(lab, "pipeline", "--regime", "accumulate_subsample", "--documents", "10")
    assert drawn["columns"]["r"] == pytest.approx(evaluated(lab, "duel", "--documents=10")["columns"]["subsample"])


def test_a_table_and_the_list(lab: Lab) -> None:
    code, out, _ = lab("theory", "duel", "--documents", "10", "--generations", "10")
    assert code == 0 and "0.75794" in out and "0.66662" in out and "assumes: " in out
    code, out, _ = lab("theory", "--list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(LAWS)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure(lab: Lab, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"law.{suffix}"
    code, out, _ = lab("theory", "tails", "--plot", str(path))
    assert (code, out) == (0, f"figure: {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    first = path.read_bytes()
    lab("theory", "tails", "--plot", str(path), "--documents", "50")
    assert path.read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a law"),
        (["mixtur"], "theory 'mixtur': no such law; did you mean 'mixture'?"),
        (["mixture", "--top_p", "0.9"], "--top_p: the law mixture does not depend on it"),
        (["mixture", "--generations", "-1"], "generations=-1: must be 0 or more"),
        (["mixture", "--documents", "many"], "documents='many': must be a whole number"),
        (["mixture", "--documents", "0"], "documents=0: must be 1 or more"),
        (["mixture", "--ratio", "1.5"], "ratio=1.5: must lie in [0, 1]"),
        (["mixture", "--schedule", "slow"], "schedule='slow': must be"),
        (["mixture", "--schedule", "list"], "values=[]: give one share for each of the 50 generations"),
        (["mixture", "--values", "[0.1]"], "values=[0.1]: give the shares here and set schedule=list"),
        (["mixture", "--ration", "1"], "did you mean 'ratio'?"),
        (["pipeline", "--regime", "accumulate", "--schedule", "constant"], "regime accumulate has no schedule"),
        (["survivors", "--real", "reuse"], "no exact law for shares that change; set schedule=constant"),
        (["regression", "--documents", "11"], "documents=11: least squares in 10 dimensions needs at least 12"),
        (["gaussian_unbiased", "--documents", "1"], "documents=1: the unbiased refit needs 2 or more"),
        (["hack", "--accept", "[0.5, 0.2, 0.9]"], "give three rising numbers"),
        (["hack", "--prior", "0.9", "--hacks", "0.2"], "must leave room for wrong answers"),
        (["rad", "--group", "1"], "group=1: must lie in [2, 1024], or be 0"),
        (["neutral_drift", "--eta", "2"], "eta=2.0: must be above 0 and at most 1"),
        (["growing", "--real_documents", "9"], "real_documents=9.0: must lie in [0, growth=5.0]"),
        (["mixture", "--json", "--plot", "a.png"], "--json and --plot: give one of them"),
        (["mixture", "--plot", "a.pdf"], "--plot a.pdf: must end with .png or .svg"),
        (["mixture", "--plot", "no/such/a.png"], "no such folder"),
        (["tails", "--simulate", "10"], "--simulate: tails has no simulator"),
        (["mixture", "--simulate", "1"], "--simulate=1: must be 2 or more"),
        (["mixture", "--seed", "-1"], "seed=-1: must be 0 or more"),
    ],
)
def test_a_mistake_is_one_line(lab: Lab, arguments: list[str], message: str) -> None:
    code, out, err = lab("theory", *arguments)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_no_law_needs_torch() -> None:
    code = (
        "import sys, io, contextlib\nfrom collapselab.cli.main import main\nfrom collapselab.theory.laws import LAWS\n"
        "import collapselab.theory.pipeline, collapselab.theory.survivors\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for name in LAWS: assert main(['theory', name]) == 0\n"
        "    assert main(['theory', '--list']) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (["mixture"], ["r", "drift"]),
        (["growing"], ["r", "drift"]),
        (["pipeline", "--documents", "15"], ["r", "drift"]),  # 0.9^g x 15 is not whole
        (["pipeline", "--documents", "15", "--real", "reuse"], ["r", "drift"]),
        (["pipeline", "--documents", "10", "--regime", "accumulate"], ["r", "drift"]),
        (["pipeline", "--documents", "10", "--regime", "accumulate_subsample"], ["r", "drift"]),
        (["gaussian", "--documents", "20"], ["variance", "drift"]),
        (["regression", "--documents", "30", "--dimension", "3"], ["replace", "accumulate"]),
        (["drift"], ["variance"]),
    ],
)
def test_a_law_beside_its_simulator(lab: Lab, line: list[str], columns: list[str]) -> None:
    found = evaluated(lab, *line, "--simulate", "3000", "--generations", "8")
    for key in columns:
        z = found["columns"][f"{key}_z"]
        assert max(map(abs, z)) <= found["facts"]["largest_z"] <= 4 and len(set(z)) > 5
    assert found["facts"]["chains"] == 3000
