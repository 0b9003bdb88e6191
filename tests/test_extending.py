"""Adding a thing takes what the how-to pages say and no more: file and line are taken from the pages and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[1] / "docs" / "how-to"
SMALL = {
    "task.evaluation_examples": "16",
    "model.width": "16",
    "model.heads": "2",
    "model.length": "3",
    "training.steps": "20",
    "recovery.space": "full",
    "operating.steps": "20",
    "damage.steps": "5",
    "recovery.steps": "10",
    "recovery.threshold": "0.1",
    "measurement.ranks": "1",
    "measurement.headline_rank": "1",
    "measurement.gradients": "4",
    "measurement.lanczos_steps": "2",
    "measurement.task_vector_steps": "1",
    "measurement.inside_steps": "1",
    "measurement.drift_rank": "1",
}
# A process of its own: what it registers must be there before the package is imported, and must be gone afterwards.
SCRIPT = """
import json, sys
import lineament.measurements, lineament.problems
from lineament.measurements.registry import MEASUREMENTS
from lineament.problems.kinds import KINDS, ProblemKind

added = json.loads(sys.argv[1])
lineament.measurements.__path__.append("measurements")
lineament.problems.__path__.append("problems")
MEASUREMENTS.update(eval("{" + added["measurement"]["line"] + "}"))
KINDS.update(eval("{" + added["problem"]["line"] + "}"))

from lineament.problems.synthetic_tasks import TASKS, SyntheticTask
exec(added["task"]["code"])
TASKS.update(eval("{" + added["task"]["line"] + "}"))
from lineament.measurements.capture_bases import BASES
exec(added["basis"]["code"])
BASES.update(eval("{" + added["basis"]["line"] + "}"))

from lineament.cli import main
for command in json.loads(sys.argv[2]):
    assert main(command) == 0, command
"""


def on_page(thing: str) -> dict[str, str]:
    """The first Python block of a how-to page, and the line for the registry."""
    text = (PAGES / f"add-a-{thing}.md").read_text()
    code, line = (re.search(rf"(?ms)^```{language}\n(.*?)^```", text) for language in ("python", "text"))
    assert code
    assert line
    return {"code": code[1], "line": line[1]}


def commands(problem: str, tasks: str, target: str, measure: str) -> list[list[str]]:
    """Every command that must work with an addition, the run first."""
    keys = {**SMALL, "task.names": tasks, "task.targets": target}
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    run = ["run", problem, "--seeds", "1", "--measure", measure, "--out", problem, *sets]
    return [
        [*run, "--preset", "quick", "--dry-run"],
        [*run, "--preset", "quick", "--quiet"],
        ["claims", problem],
        ["report", problem],
        ["export", problem, "--csv"],
    ]


@pytest.fixture(scope="module")
def extended(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where two runs with all additions were made, and what the commands printed."""
    folder = tmp_path_factory.mktemp("extended")
    added = {thing: on_page(thing) for thing in ("measurement", "basis", "task", "problem")}
    for kind, package, name in (("measurement", "measurements", "loss_barrier"), ("problem", "problems", "letters")):
        (folder / package).mkdir()
        (folder / package / f"{name}.py").write_text(added[kind]["code"])
    todo = [
        *commands("synthetic", "copy,minimum", "minimum", "basis_capture,loss_barrier"),
        *commands("letters", "same,next", "next", "gradient_rank,loss_barrier"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(added), json.dumps(todo)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def record(run: Path, name: str) -> dict[str, object]:
    body: dict[str, object] = json.loads((run / "records" / f"{name}.json").read_text())
    return body


@pytest.mark.parametrize(("problem", "target"), [("synthetic", "minimum"), ("letters", "next")])
def test_a_measurement_is_planned_recorded_reported_and_exported(
    problem: str, target: str, extended: tuple[Path, str]
) -> None:
    folder, printed = extended
    assert printed.count("loss barrier") == 2  # the plan of each run
    figures = record(folder / problem, f"loss_barrier-{target}-seed0")["figures"]
    assert [figure["quantity"] for figure in figures] == ["barrier"]  # type: ignore[attr-defined]
    page = (folder / problem / "report.html").read_text()
    assert "loss_barrier" in page
    assert re.search(rf"(?m)^loss_barrier,{target},0,.*barrier", printed)  # a row of the export


def test_a_basis_is_captured_with(extended: tuple[Path, str]) -> None:
    figures = record(extended[0] / "synthetic", "basis_capture-minimum-seed0")["figures"]
    values = [f["value"] for f in figures if f["labels"].get("basis") == "static_both"]  # type: ignore[attr-defined]
    assert any(value is not None and 0 <= value <= 1 for value in values)


def test_a_task_is_damaged_and_recovered(extended: tuple[Path, str]) -> None:
    assert record(extended[0] / "synthetic", "loss_barrier-minimum-seed0")["target"] == "minimum"


def test_a_kind_of_problem_runs_with_measurements_and_claims(extended: tuple[Path, str]) -> None:
    body = record(extended[0] / "letters", "gradient_rank-next-seed0")
    assert (body["problem"], body["model"]) == ("letters", "letters 16")
    claims = json.loads((extended[0] / "letters" / "claims.json").read_text())
    assert claims["problem"] == "letters"
    assert claims["claims"]
