"""Put the claims, or the captures and half-lives, of run folders into the README between its markers.

python benchmarks/make_tables.py claims:synthetic=runs/demo claims:lm=runs/lm-quick captures:lm=runs/lm-3-seeds
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from lineament.claims.evidence import Evidence
from lineament.claims.intervals import Interval, over_seeds
from lineament.records import Quantity, Record, load_records

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


# Row of the captures table -> basis; whether `rest` is shown too.
CAPTURE_ROWS = {
    "first updates": ("prefix", True),
    "... at random times (control)": ("control_random_times", True),
    "... of a run on data in another order (control)": ("control_other_data", True),
    "... at the frozen damaged point (control)": ("control_frozen_run", False),
    "task plane in the optimizer's metric (control)": ("control_preconditioned", False),
    "first updates on shuffled labels (null)": ("null_noise_prefix", True),
    "first updates without the mean gradient (null)": ("null_mean_free_prefix", False),
    "another task's plane (null)": ("null_other_task", False),
    "random plane (null)": ("random", False),
}


def captures_table(run: Path) -> str:
    """Rows: bases; columns: tasks; cells: mean over seeds with its interval, at ranks 10 and 20."""
    by_task: dict[str, list[Record]] = {}
    for record in load_records(run / "records"):
        by_task.setdefault(record.target, []).append(record)
    tasks = list(by_task)
    first = next(iter(by_task.values()))[0]
    n_seeds = len({record.seed for record in by_task[tasks[0]]})
    lines = [
        f"{first.model}, {first.space}, AdamW, {n_seeds} seeds; mean and 95 % interval (Student t over seeds):",
        "",
        f"| captured share of the recovery | k | paper | {' | '.join(f'`{task}`' for task in tasks)} |",
        "|---" * (3 + len(tasks)) + "|",
    ]

    def row(name: str, k: str, paper: str, cell: Callable[[list[Record]], str]) -> None:
        lines.append(f"| {name} | {k} | {paper} | {' | '.join(cell(by_task[task]) for task in tasks)} |")

    for name, (basis, with_rest) in CAPTURE_ROWS.items():
        for definition in ("whole", "rest") if with_rest else ("whole",):
            for rank in (10, 20):
                paper = "0.77" if (basis, definition, rank) == ("prefix", "whole", 10) else ""
                words = name if definition == "whole" else f"{name}: rest"
                row(words, str(rank), paper, lambda r, b=basis, d=definition, k=rank: _capture(r, b, d, k))  # type: ignore[misc]
    for definition in ("whole", "rest"):
        for basis, words in (("prefix", "first updates"), ("control_random_times", "updates at random times")):
            for rank in (10, 20):
                name = f"a blind run's {words}{': rest' if definition == 'rest' else ''}"
                row(name, str(rank), "", lambda r, b=basis, d=definition, k=rank: _blind(r, b, d, k))  # type: ignore[misc]
    row("best fixed plane", "10", "0.15", _best_static)
    row("T", "", "", lambda r: _interval(_values(r, "basis_capture", "recovery_steps"), False))
    row("steps until recovered", "", "", lambda r: _interval(_values(r, "basis_capture", "steps_to_recovery"), False))
    for side in ("broken", "recovered"):
        name = {"broken": "damaged", "recovered": "recovered"}[side]
        row(
            f"half-life of the gradient plane, from the {name} point, steps",
            "5",
            "< 100",
            lambda r, s=side: _half_life(r, s),
        )  # type: ignore[misc]
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


def _capture(records: list[Record], basis: str, definition: str, rank: int) -> str:
    labels = {"basis": basis, "definition": definition, "rank": rank, "at": "T", "space_of": "parameters"}
    recovered = [r for r in records if r.measurement == "basis_capture" and r.value("recovery_steps") is not None]
    return _interval(_values(recovered, "basis_capture", "capture", **labels), True)


def _blind(records: list[Record], basis: str, definition: str, rank: int) -> str:
    labels = {"basis": basis, "definition": definition, "rank": rank, "at": "T", "space_of": "parameters"}
    recovered = [r for r in records if r.measurement == "basis_capture" and r.value("recovery_steps") is not None]
    found = [q.blind for q in _figures(recovered, "basis_capture", "capture", **labels) if q.blind is not None]
    return f"{sum(found) / len(found):.2f}" if found else "-"


def _best_static(records: list[Record]) -> str:
    evidence = Evidence(records[0].target, 10, {(r.measurement, r.seed): r for r in records})
    return _interval(list(evidence.best_static().values()), True)


def _half_life(records: list[Record], side: str) -> str:
    figures = [f for r in records if r.measurement == "basis_drift" for f in r.select("half_life") if
               f.labels.get("from") == side]  # fmt: skip
    values = [figure.value for figure in figures if figure.value is not None]
    without = [(figure.reason or "").partition(" (")[0] for figure in figures if figure.value is None]
    return "; ".join([*([_interval(values, False)] if values else []), *without]) or "-"


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
