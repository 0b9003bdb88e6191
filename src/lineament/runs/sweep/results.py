"""Results of a sweep: the claims of every cell over its seeds, what each key changes, and which jobs failed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lineament.claims.claims_file import SWEEP_SCHEMA, write_claims
from lineament.claims.evidence import paired_by_seed
from lineament.claims.intervals import FEW_SEEDS
from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Claim
from lineament.errors import LineamentError
from lineament.files.writing import write_json
from lineament.records import Record, load_records
from lineament.report.sweep.page import write_sweep_report
from lineament.runs.folder import RunFolder
from lineament.runs.job import is_finished, seeds_of
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Cell, Grid
from lineament.runs.sweep.table import write_tables
from lineament.settings.keys import KEYS
from lineament.settings.plain import plain_value

# (task, claim) -> seed -> the claim's value from that seed alone.
PerSeed = Mapping[tuple[str, str], Mapping[int, float]]


def write_all(folder: SweepFolder) -> dict[str, Any]:
    """Write results, tables and report from the records of the cells alone; return the results.

    Raises:
        LineamentError: no cell has a record yet.
    """
    results = write_results(folder)
    write_tables(folder)
    write_sweep_report(folder.path, {name: key.meaning for name, key in KEYS.items()})
    if not any(cell["n_records"] for cell in results["cells"]):
        raise LineamentError(
            f"no record was finished; {folder.path / 'report.html'} names the jobs, and the log.txt of their runs has "
            "more. Fix the cause and use --resume."
        )
    return results


def write_results(folder: SweepFolder) -> dict[str, Any]:
    """Judge every cell and write SWEEP/sweep.json, and claims.json of every cell that has records.

    Cells are read one by one, so memory holds the records of one cell at most. A cell without records is listed
    with no claims.

    Returns:
        The body of sweep.json.

    Raises:
        LineamentError: a record or a state is not readable, or the disk refuses to write.
    """
    grid = folder.grid()
    cells, failed, units = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, str]()
    values: dict[tuple[Any, ...], tuple[str, PerSeed]] = {}
    for cell in grid.cells():
        run = folder.run(cell)
        records = load_records(run.records, with_arrays=False)
        rank = cell.settings.measurement.headline_rank
        claims = write_claims(run.path, records, rank) if records else []
        per_seed = _per_seed(records, rank)
        done = [seed for seed in seeds_of(cell.settings) if is_finished(cell.settings, seed, run.path)]
        body = _cell_body(cell, records, done, claims, per_seed)
        cells.append(body)
        failed += _failures(cell, run, done)
        values[tuple(cell.values.values())] = cell.name, per_seed
        units.update({claim.id: claim.unit for claim in claims})
    body = {
        "schema": SWEEP_SCHEMA,
        "problem": grid.base.problem,
        "models": sorted({cell["model"] for cell in cells if cell["model"]}),
        "vary": [{"key": key, "values": [plain_value(value) for value in given]} for key, given in grid.vary.items()],
        "seeds": list(seeds_of(grid.base)),
        "jobs": {
            "planned": len(cells) * grid.base.seeds,
            "done": sum(len(cell["seeds_done"]) for cell in cells),
            "failed": len(failed),
        },
        "cells": cells,
        "differences": list(_differences(grid, values, units)),
        "failed": failed,
    }
    write_json(folder.results, body)
    return body


def _cell_body(
    cell: Cell, records: Sequence[Record], done: Sequence[int], claims: Sequence[Claim], per_seed: PerSeed
) -> dict[str, Any]:
    return {
        "name": cell.name,
        "values": {key: plain_value(value) for key, value in cell.values.items()},
        "seeds_done": list(done),
        "n_records": len(records),
        "model": records[0].model if records else None,
        "n_params": records[0].n_params if records else None,
        "config_hashes": sorted({record.config_hash for record in records}),
        "not_recovered": _not_recovered(records),
        "claims": [_claim_body(claim, per_seed) for claim in claims],
    }


def _claim_body(claim: Claim, per_seed: PerSeed) -> dict[str, Any]:
    """Return a claim without its details, which are long and stay in the cell's claims.json."""
    body = asdict(claim)
    n_seeds = body.pop("details")["n_seeds"]
    values = per_seed.get((claim.task, claim.id), {})
    return {**body, "n_seeds": n_seeds, "per_seed": {str(seed): value for seed, value in values.items()}}


def _not_recovered(records: Sequence[Record]) -> list[dict[str, Any]]:
    """List seeds that did not recover: they have no capture and no drift, so a finished cell may lack claims."""
    return [
        {"task": record.target, "seed": record.seed, "reason": steps.reason or "not recovered"}
        for record in records
        for steps in record.select("recovery_steps")
        if record.measurement == "basis_capture" and steps.value is None
    ]


def _per_seed(records: Sequence[Record], rank: int) -> PerSeed:
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(record)
    per_seed: dict[tuple[str, str], dict[int, float]] = {}
    for seed, own in sorted(by_seed.items()):
        for claim in evaluate_claims(own, rank):
            if claim.measured is not None:
                per_seed.setdefault((claim.task, claim.id), {})[seed] = claim.measured
    return per_seed


def _failures(cell: Cell, run: RunFolder, done: Sequence[int]) -> list[dict[str, Any]]:
    jobs = run.jobs()
    named = {seed: jobs.get(f"seed{seed}", {}) for seed in seeds_of(cell.settings)}
    failed = {seed: state for seed, state in named.items() if state.get("status") == "failed"}
    return [
        {"cell": cell.name, "seed": seed, "message": failed[seed].get("message") or "no message"}
        for seed in sorted(failed)
        if seed not in done
    ]


def _differences(
    grid: Grid, values: Mapping[tuple[Any, ...], tuple[str, PerSeed]], units: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Subtract a key's first value from every other one, all other keys held fixed."""
    keys = list(grid.vary)
    for place, key in enumerate(keys):
        first, *others = grid.vary[key]
        before, after = list(grid.vary.values())[:place], list(grid.vary.values())[place + 1 :]
        for head, tail in itertools.product(itertools.product(*before), itertools.product(*after)):
            fixed = dict(
                zip(
                    [*keys[:place], *keys[place + 1 :]], [*map(plain_value, head), *map(plain_value, tail)], strict=True
                )
            )
            for other in others:
                names = {"key": key, "first": plain_value(first), "other": plain_value(other), "fixed": fixed}
                differences = _cell_differences(values[*head, first, *tail], values[*head, other, *tail], units)
                yield from ({**names, **body} for body in differences)


def _cell_differences(
    first: tuple[str, PerSeed], other: tuple[str, PerSeed], units: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Pair two cells by seed, over the seeds that both have; a claim that no seed has in both is left out."""
    (first_cell, old), (other_cell, new) = first, other
    for task, claim in old:
        difference = paired_by_seed(new.get((task, claim), {}), old[task, claim])
        if difference.n_seeds:
            yield {
                "first_cell": first_cell,
                "other_cell": other_cell,
                "task": task,
                "claim": claim,
                "unit": units[claim],
                **asdict(difference),
                "reason": FEW_SEEDS.get(difference.n_seeds),
            }
