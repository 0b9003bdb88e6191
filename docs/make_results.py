"""Put the results of run folders into README.md and docs/results.md, each table with its configuration and date.

python docs/make_results.py embedded=runs/embedded smollm2=runs/smollm2

A study is named in the mark above each table: `<!-- claims STUDY: ID ID -->` or `<!-- captures STUDY -->`, up to
`<!-- end -->`. Only tables of the studies that are given are made anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from lineament.claims.claims_file import read_claims
from lineament.claims.evidence import Evidence
from lineament.claims.intervals import Interval, over_seeds
from lineament.records import ALL_TASKS, Quantity, Record, load_records
from lineament.report.verdicts import claim_title

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
BLOCK = re.compile(r"(?ms)(<!-- (?P<kind>claims|captures) (?P<study>\w+)(?::(?P<ids>[\w ]*))? -->\n).*?(^<!-- end -->)")
WORDS = {"supported": "supported", "not_supported": "**not supported**", "inconclusive": "inconclusive"}


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.2f}"


def claims_table(run: Path, ids: Sequence[str]) -> str:
    """Rows: claims in words; columns: what was measured, what would be seen if nothing were there, the verdict."""
    by_id = {claim.id: claim for claim in read_claims(run)}
    if missing := [id for id in ids if id not in by_id]:
        raise SystemExit(f"{run} does not hold the claims {', '.join(missing)}; measure them in it.")
    lines = [
        "| claim | measured | 95 % | null | blind | paper | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in (by_id[id] for id in ids or by_id):
        interval = f"{number(claim.low)} to {number(claim.high)}" if claim.low is not None else "-"
        row = (
            f"{claim_title(claim.id)} (`{claim.id}`)",
            number(claim.measured),
            interval,
            number(claim.null),
            number(claim.blind),
            number(claim.paper),
            WORDS[claim.verdict],
        )
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
    steps = _interval(_values(by_task[tasks[0]], "basis_capture", "recovery_steps"), False).partition(" ")[0]
    lines = [
        f"{first.model}, AdamW, T = {steps}, {RANK} directions, mean over seeds [95 %]:",
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


def made_from(run: Path) -> str:
    """Say what the table above it was made from."""
    records = load_records(run / "records", with_arrays=False)
    hashes = " ".join(sorted({record.config_hash for record in records}))
    tasks = list(dict.fromkeys(record.target for record in records if record.target != ALL_TASKS))
    seeds = len({record.seed for record in records})
    started = json.loads((run / "provenance.json").read_text())["started"]
    named = ", ".join(f"`{task}`" for task in tasks)
    return (
        f"*{records[0].model}, {records[0].space}, tasks damaged: {named or 'none'}; {seeds} seeds; "
        f"configuration `{hashes}`, run on {started[:10]}.*"
    )


def main() -> None:
    runs = {name: Path(run) for name, _, run in (argument.partition("=") for argument in sys.argv[1:])}

    def made(block: re.Match[str]) -> str:
        run, ids = runs.get(block["study"]), (block["ids"] or "").split()
        if run is None:
            return block[0]
        table = captures_table(run) if block["kind"] == "captures" else claims_table(run, ids)
        return f"{block[1]}\n{table}\n\n{made_from(run)}\n{block[5]}"

    for page in PAGES:
        page.write_text(BLOCK.sub(made, page.read_text()))


if __name__ == "__main__":
    main()
