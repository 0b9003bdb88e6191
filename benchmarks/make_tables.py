"""Put the claims, or the captures, of run folders into the README between its markers.

python benchmarks/make_tables.py claims:synthetic=runs/demo claims:lm=runs/lm-quick captures:lm=runs/lm
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from lineament.claims.evidence import Evidence
from lineament.claims.intervals import Interval, over_seeds
from lineament.records import ALL_TASKS, Quantity, Record, load_records

README = Path(__file__).resolve().parents[1] / "README.md"
WORDS = {"supported": "supported", "not_supported": "**not supported**", "inconclusive": "inconclusive"}


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.2f}"


def table(run: Path) -> str:
    body = json.loads((run / "claims.json").read_text())
    n_seeds, first = body["n_seeds"], body["claims"][0]
    seeds = "1 seed, so no interval" if n_seeds == 1 else f"{n_seeds} seeds"
    tasks = list(dict.fromkeys(claim["task"] for claim in body["claims"]))
    several = len(tasks) > 1
    named = ("tasks " if several else "task ") + ", ".join(f"`{task}`" for task in tasks)
    named = "all tasks" if tasks == [ALL_TASKS] else named
    columns = ["claim", *(["task"] if several else []), "measured", "interval", "null", "blind", "paper", "verdict"]
    lines = [
        f"{body['model']}, {named}, {first['space']}, {seeds}:",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for c in body["claims"]:
        interval = f"{number(c['low'])} to {number(c['high'])}" if c["low"] is not None else "-"
        row = [
            f"`{c['id']}`",
            *([c["task"]] if several else []),
            number(c["measured"]),
            interval,
            number(c["null"]),
            number(c.get("blind")),
            number(c["paper"]),
            WORDS[c["verdict"]],
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


RANK = 10
# Row of the captures table -> basis; whether `rest` is shown too.
CAPTURE_ROWS = {
    "first updates": ("prefix", True),
    "updates at random times (control)": ("control_random_times", False),
    "first updates of a run on data in another order (control)": ("control_other_data", True),
    "task plane in the optimizer's metric (control)": ("control_preconditioned", False),
    "first updates on shuffled labels (null)": ("null_noise_prefix", True),
    "first updates without the mean gradient (null)": ("null_mean_free_prefix", True),
    "another task's plane (null)": ("null_other_task", False),
}


def captures_table(run: Path) -> str:
    """Rows: bases; columns: tasks; cells: logit mean over seeds with its interval, at rank 10."""
    by_task: dict[str, list[Record]] = {}
    for record in load_records(run / "records"):
        by_task.setdefault(record.target, []).append(record)
    tasks = list(by_task)
    first = next(iter(by_task.values()))[0]
    n_seeds = len({record.seed for record in by_task[tasks[0]]})
    steps = _interval(_values(by_task[tasks[0]], "basis_capture", "recovery_steps"), False).partition(" ")[0]
    lines = [
        f"{first.model}, {first.space}, AdamW, T = {steps}, {RANK} directions, {n_seeds} seeds, 95 % intervals:",
        "",
        f"| captured share of the recovery | paper | {' | '.join(f'`{task}`' for task in tasks)} |",
        "|---" * (2 + len(tasks)) + "|",
    ]

    def row(name: str, paper: str, cell: Callable[[list[Record]], str]) -> None:
        lines.append(f"| {name} | {paper} | {' | '.join(cell(by_task[task]) for task in tasks)} |")

    for name, (basis, with_rest) in CAPTURE_ROWS.items():
        for definition in ("whole", "rest") if with_rest else ("whole",):
            paper = "0.77" if (basis, definition) == ("prefix", "whole") else ""
            words = name if definition == "whole" else f"{name}: of what comes after"
            row(words, paper, partial(_capture, basis=basis, definition=definition))
            if basis in ("prefix", "control_random_times"):
                row(f"{words}, blind", "", partial(_blind, basis=basis, definition=definition))
    row("best fixed plane", "0.15", _best_static)
    row("steps until recovered", "", lambda r: _interval(_values(r, "basis_capture", "steps_to_recovery"), False))
    return "\n".join(lines)


def _figures(records: Iterable[Record], measurement: str, quantity: str, **labels: str | int) -> list[Quantity]:
    return [next(r.select(quantity, **labels)) for r in records if r.measurement == measurement]


def _values(records: Iterable[Record], measurement: str, quantity: str, **labels: str | int) -> list[float]:
    found = _figures(records, measurement, quantity, **labels)
    return [figure.value for figure in found if figure.value is not None]


def _interval(values: list[float], fraction: bool) -> str:
    found: Interval = over_seeds(values, fraction=fraction)
    if not values:
        return "-"
    shown = (lambda x: f"{x:.2f}") if fraction else (lambda x: f"{x:.0f}")
    if found.low is None or found.high is None:
        return f"{shown(found.mean)} (one seed)"
    return f"{shown(found.mean)} [{shown(max(found.low, 0.0))}, {shown(found.high)}]"


def _capture(records: list[Record], basis: str, definition: str) -> str:
    labels = {"basis": basis, "definition": definition, "rank": RANK, "at": "T", "space_of": "parameters"}
    recovered = [r for r in records if r.measurement == "basis_capture" and r.value("recovery_steps") is not None]
    return _interval(_values(recovered, "basis_capture", "capture", **labels), True)


def _blind(records: list[Record], basis: str, definition: str) -> str:
    labels = {"basis": basis, "definition": definition, "rank": RANK, "at": "T", "space_of": "parameters"}
    recovered = [r for r in records if r.measurement == "basis_capture" and r.value("recovery_steps") is not None]
    found = [q.blind for q in _figures(recovered, "basis_capture", "capture", **labels) if q.blind is not None]
    return f"{sum(found) / len(found):.2f}" if found else "-"


def _best_static(records: list[Record]) -> str:
    evidence = Evidence(records[0].target, RANK, {(r.measurement, r.seed): r for r in records})
    return _interval(list(evidence.best_static().values()), True)


MAKERS: dict[str, Callable[[Path], str]] = {"claims": table, "captures": captures_table}


def main() -> None:
    text = README.read_text()
    for argument in sys.argv[1:]:
        name, _, run = argument.partition("=")
        start, end = f"<!-- {name} -->", "<!-- end -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{MAKERS[name.partition(':')[0]](Path(run))}\n{end}{after}"
    README.write_text(text)


if __name__ == "__main__":
    main()
