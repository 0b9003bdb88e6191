"""The report of a sweep: one self-contained page that opens with no network, made from sweep.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineament.errors import InputError
from lineament.records import read_json, write_bytes
from lineament.report.rendering import assets, drawn, flat, identifier, optional_json, template
from lineament.report.series import Table
from lineament.report.sweep.claim_grid import ClaimGrid, claim_grids, short_keys
from lineament.report.sweep.figures import claim_pictures, claim_title, difference_tables
from lineament.report.verdicts import verdict_row
from lineament.settings.words import value_words

# Cells stand side by side up to here; more of them stand one below the other.
COLUMNS_MOST = 12
ROWS_MOST, FAILURES_MOST, HASHES_MOST = 200, 20, 6


def write_sweep_report(path: Path, meanings: Mapping[str, str]) -> Path:
    """Write SWEEP/report.html from SWEEP/sweep.json; sweep.toml and provenance.json are shown where they are there.

    Args:
        path: a sweep folder; its records are not read.
        meanings: settings key -> what it means, for the table of what is varied.

    Returns:
        The path of the page. The same files always give the same bytes.

    Raises:
        InputError: the folder holds no sweep.json.
    """
    page = path / "report.html"
    write_bytes(page, render_sweep(path, meanings).encode())
    return page


def render_sweep(path: Path, meanings: Mapping[str, str]) -> str:
    """Return the page as text."""
    if not (path / "sweep.json").exists():
        raise InputError(f"{path} holds no sweep.json. Give the folder that `lineament sweep --out` wrote.")
    body = read_json(path / "sweep.json")
    grids = claim_grids(body)
    several_tasks = len({grid.task for grid in grids}) > 1
    config = path / "sweep.toml"
    page: str = template("sweep.html.j2").render(
        overview=_overview(body),
        failures=body["failed"][:FAILURES_MOST],
        n_more_failures=max(0, len(body["failed"]) - FAILURES_MOST),
        keys=_keys_table(body, meanings),
        not_recovered=_not_recovered(body["cells"], several_tasks),
        verdicts=_verdicts(grids, body["cells"], several_tasks),
        sections=[_section(grid, body, several_tasks) for grid in grids],
        cells=_cells_table(body["cells"]),
        provenance=sorted(flat(optional_json(path / "provenance.json") or {})),
        config=config.read_text() if config.exists() else "",
        **assets(),
    )
    return page


def _overview(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the head of the page says about the sweep as a whole."""
    keys, jobs = [item["key"] for item in body["vary"]], body["jobs"]
    short = short_keys(keys)
    sizes = sorted({cell["n_params"] for cell in body["cells"] if cell["n_params"]})
    return {
        "model": " and ".join(body["models"]) or "no model yet",
        "varied": " and ".join(
            part for part in (", ".join(list(short.values())[:-1]), list(short.values())[-1]) if part
        ),
        "problem": body["problem"],
        "grid": " × ".join(f"{short[item['key']]} ({len(item['values'])})" for item in body["vary"]),
        "n_cells": len(body["cells"]),
        "seeds": body["seeds"],
        "n_params": " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]])),
        "jobs": jobs,
        "n_missing": jobs["planned"] - jobs["done"] - jobs["failed"],
    }


def _keys_table(body: Mapping[str, Any], meanings: Mapping[str, str]) -> Table:
    rows = [
        (item["key"], "; ".join(map(value_words, item["values"])), meanings.get(item["key"], "not known here"))
        for item in body["vary"]
    ]
    return Table("What is varied", ("key", "values", "meaning"), rows)


def _not_recovered(cells: Sequence[Mapping[str, Any]], several_tasks: bool) -> dict[str, Any]:
    """Which cells lack a recovery in which seeds: one row each, the first of them."""
    seeds: dict[tuple[str, str], dict[int, str]] = {}
    for cell in cells:
        for found in cell["not_recovered"]:
            seeds.setdefault((cell["name"], found["task"]), {})[found["seed"]] = found["reason"]
    rows = [
        {
            "cell": f"{cell} ({task})" if several_tasks else cell,
            "seeds": ("seed " if len(reasons) == 1 else "seeds ") + ", ".join(map(str, sorted(reasons))),
            "why": "; ".join(dict.fromkeys(reasons.values())),
        }
        for (cell, task), reasons in seeds.items()
    ]
    return {"rows": rows[:FAILURES_MOST], "n_more": max(0, len(rows) - FAILURES_MOST)}


def _verdicts(grids: Sequence[ClaimGrid], cells: Sequence[Mapping[str, Any]], several_tasks: bool) -> dict[str, Any]:
    """The matrix of claims and cells: few cells as columns, many as rows."""
    combinations = {name: combination for grid in grids[:1] for combination, name in grid.names.items()}
    heads = [{"title": _section_title(grid, several_tasks), "link": _section_id(grid)} for grid in grids]
    shown = cells if len(cells) <= COLUMNS_MOST else cells[:ROWS_MOST]
    keys = list(grids[0].vary) if grids else []
    named = [[value_words(cell["values"][key]) for key in keys] for cell in shown]
    found = [[_verdict(grid, combinations[cell["name"]]) for grid in grids] for cell in shown]
    return {
        "wide": len(cells) <= COLUMNS_MOST,
        "claims": heads,
        "varied": list(short_keys(keys).values()),
        "cells": named,
        "found": found,
        "n_more": len(cells) - len(shown),
        "totals": [_totals(grid) for grid in grids],
    }


def _verdict(grid: ClaimGrid, combination: tuple[Any, ...]) -> dict[str, Any] | None:
    claim = grid.found.get(combination)
    return verdict_row(claim) if claim is not None else None


def _totals(grid: ClaimGrid) -> str:
    counts = dict.fromkeys(("supported", "not_supported", "inconclusive"), 0)
    for claim in grid.found.values():
        counts[claim["verdict"]] += 1
    return ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in counts.items() if n)


def _section(grid: ClaimGrid, body: Mapping[str, Any], several_tasks: bool) -> dict[str, Any]:
    """Everything the page shows about one claim on one task."""
    sources = _sources(grid, body["cells"])
    return {
        "id": _section_id(grid),
        "title": _section_title(grid, several_tasks),
        "totals": _totals(grid),
        "claim": grid.claim,
        "task": grid.task,
        "facts": _facts(grid),
        "pictures": [drawn(picture, f"{grid.claim}-{grid.task}", sources) for picture in claim_pictures(grid)],
        "undefined": sorted({claim["reason"] for claim in grid.found.values() if claim["measured"] is None}),
        "tables": difference_tables(grid, body["differences"]),
        "sources": sources,
    }


def _section_id(grid: ClaimGrid) -> str:
    return f"{grid.claim}-{identifier(grid.task)}"


def _section_title(grid: ClaimGrid, several_tasks: bool) -> str:
    return f"{claim_title(grid)} ({grid.task})" if several_tasks else claim_title(grid)


def _facts(grid: ClaimGrid) -> list[tuple[str, str]]:
    """Rule, definition and the like; where cells differ in them, all that there are."""
    facts: dict[str, list[str]] = {}
    for claim in grid.found.values():
        for name, text in verdict_row(claim)["facts"]:
            facts.setdefault(name, []).append(text)
    return [(name, "; ".join(dict.fromkeys(texts))) for name, texts in facts.items()]


def _sources(grid: ClaimGrid, cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """sweep.json, and the cells whose records it was computed from."""
    names = {grid.names[combination] for combination in grid.found}
    hashes = sorted({found for cell in cells if cell["name"] in names for found in cell["config_hashes"]})
    return {
        "names": f"sweep.json: records of {len(names)} cells, which are named under Provenance",
        "hashes": ", ".join(hashes) if len(hashes) <= HASHES_MOST else f"one for each of {len(names)} cells",
    }


def _cells_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("records", "number", "seeds done", "model", "measured parameters", "configuration")
    rows = [
        (
            f"cells/{cell['name']}/records",
            str(cell["n_records"]),
            ", ".join(map(str, cell["seeds_done"])) or "none",
            cell["model"] or "none yet",
            f"{cell['n_params']:,}" if cell["n_params"] else "none yet",
            ", ".join(cell["config_hashes"]) or "none yet",
        )
        for cell in cells[:ROWS_MOST]
    ]
    more = len(cells) - len(rows)
    return Table("Cells", columns, rows, f"{more} more cells are in sweep.json." if more else "")
