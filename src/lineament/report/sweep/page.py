"""The report of a sweep: one self-contained page that opens with no network, made from sweep.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineament.claims.claims_file import claim_from, read_sweep
from lineament.errors import InputError
from lineament.files.reading import read_text
from lineament.files.writing import write_bytes
from lineament.records import target_words
from lineament.report.rendering import assets, drawn, identifier, provenance_lines, template
from lineament.report.series import Table
from lineament.report.sweep.claim_grid import ClaimGrid, claim_grids
from lineament.report.sweep.differences import difference_tables
from lineament.report.sweep.pictures import claim_pictures
from lineament.report.sweep.story import NOTE, sweep_story
from lineament.report.tidy import tidied
from lineament.report.verdicts import verdict_counts, verdict_row
from lineament.report.words import model_words
from lineament.settings.words import short_keys, value_words

# Cells stand side by side up to here; more of them stand one below the other.
MAX_COLUMNS = 12
MAX_ROWS, MAX_FAILURES, MAX_HASHES = 200, 20, 6


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
    body = read_sweep(path)
    grids = claim_grids(body)
    several_tasks = len({grid.task for grid in grids}) > 1
    config = path / "sweep.toml"
    page: str = template("sweep.html.j2").render(
        overview=_overview(body),
        failures=body["failed"][:MAX_FAILURES],
        n_more_failures=max(0, len(body["failed"]) - MAX_FAILURES),
        story=sweep_story(grids),
        story_note=NOTE,
        keys=_keys_table(body, meanings),
        not_recovered=_not_recovered(body["cells"], several_tasks),
        verdicts=_verdicts(grids, body["cells"], several_tasks),
        sections=[_section(grid, body, several_tasks) for grid in grids],
        cells=_cells_table(body["cells"]),
        provenance=provenance_lines(path),
        config=read_text(config) if config.exists() else "",
        **assets(),
    )
    return page


def _overview(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the head of the page says about the sweep as a whole."""
    keys, jobs = [item["key"] for item in body["vary"]], body["jobs"]
    short = short_keys(keys)
    sizes = sorted({cell["n_params"] for cell in body["cells"] if cell["n_params"]})
    return {
        "model": " and ".join(map(model_words, body["models"])) or "no model yet",
        "varied": " and ".join(
            part for part in (", ".join(list(short.values())[:-1]), list(short.values())[-1]) if part
        ),
        "problem": body["problem"],
        "found": _found(body["cells"]),
        "grid": " × ".join(f"{short[item['key']]} ({len(item['values'])})" for item in body["vary"]),
        "n_cells": len(body["cells"]),
        "seeds": body["seeds"],
        "n_params": " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]])),
        "jobs": jobs,
        "n_missing": jobs["planned"] - jobs["done"] - jobs["failed"],
    }


def _found(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence on what was found, for previews of the page."""
    verdicts = [claim["verdict"] for cell in cells for claim in cell["claims"]]
    if not verdicts:
        return "No claim could be judged yet."
    return f"{len(verdicts)} verdicts in {len(cells)} cells: {verdict_counts(verdicts)}."


def _keys_table(body: Mapping[str, Any], meanings: Mapping[str, str]) -> Table:
    rows = [
        (item["key"], "; ".join(map(value_words, item["values"])), meanings.get(item["key"], "not known here"))
        for item in body["vary"]
    ]
    return Table("What is varied", ("key", "values", "meaning"), rows)


def _not_recovered(cells: Sequence[Mapping[str, Any]], several_tasks: bool) -> dict[str, Any]:
    """Return which cells lack a recovery in which seeds: one row each, the first of them."""
    seeds: dict[tuple[str, str], dict[int, str]] = {}
    for cell in cells:
        for failure in cell["not_recovered"]:
            seeds.setdefault((cell["name"], failure["task"]), {})[failure["seed"]] = failure["reason"]
    rows = [
        {
            "cell": f"{cell} ({task})" if several_tasks else cell,
            "seeds": ("seed " if len(reasons) == 1 else "seeds ") + ", ".join(map(str, sorted(reasons))),
            "why": "; ".join(dict.fromkeys(reasons.values())),
        }
        for (cell, task), reasons in seeds.items()
    ]
    return {"rows": rows[:MAX_FAILURES], "n_more": max(0, len(rows) - MAX_FAILURES)}


def _verdicts(grids: Sequence[ClaimGrid], cells: Sequence[Mapping[str, Any]], several_tasks: bool) -> dict[str, Any]:
    """Return the matrix of claims and cells: few cells as columns, many as rows."""
    combinations = {name: combination for grid in grids[:1] for combination, name in grid.names.items()}
    heads = [{"title": _section_title(grid, several_tasks), "link": _section_id(grid)} for grid in grids]
    shown = cells if len(cells) <= MAX_COLUMNS else cells[:MAX_ROWS]
    keys = list(grids[0].vary) if grids else []
    named = [[value_words(cell["values"][key]) for key in keys] for cell in shown]
    rows = [[_verdict(grid, combinations[cell["name"]]) for grid in grids] for cell in shown]
    return {
        "wide": len(cells) <= MAX_COLUMNS,
        "claims": heads,
        "varied": list(short_keys(keys).values()),
        "cells": named,
        "rows": rows,
        "n_more": len(cells) - len(shown),
        "totals": [_totals(grid) for grid in grids],
    }


def _verdict(grid: ClaimGrid, combination: tuple[Any, ...]) -> dict[str, Any] | None:
    claim = grid.claims.get(combination)
    return verdict_row(claim_from(claim)) if claim is not None else None


def _totals(grid: ClaimGrid) -> str:
    return verdict_counts(claim["verdict"] for claim in grid.claims.values())


def _section(grid: ClaimGrid, body: Mapping[str, Any], several_tasks: bool) -> dict[str, Any]:
    """Return everything that the page shows about one claim on one task."""
    sources = _sources(grid, body["cells"])
    return {
        "id": _section_id(grid),
        "title": _section_title(grid, several_tasks),
        "totals": _totals(grid),
        "claim": grid.claim,
        "task": target_words(grid.task),
        "facts": _facts(grid),
        "pictures": [drawn(picture, f"{grid.claim}-{grid.task}", sources) for picture in claim_pictures(grid)],
        "undefined": sorted({claim["reason"] for claim in grid.claims.values() if claim["measured"] is None}),
        "tables": list(map(tidied, difference_tables(grid, body["differences"]))),
        "sources": sources,
    }


def _section_id(grid: ClaimGrid) -> str:
    return f"{grid.claim}-{identifier(grid.task)}"


def _section_title(grid: ClaimGrid, several_tasks: bool) -> str:
    return f"{grid.title} ({target_words(grid.task)})" if several_tasks else grid.title


def _facts(grid: ClaimGrid) -> list[tuple[str, str]]:
    """Return rule, definition and the like; if cells differ in them, all of them."""
    facts: dict[str, list[str]] = {}
    for claim in grid.claims.values():
        for name, text in verdict_row(claim_from(claim))["facts"]:
            facts.setdefault(name, []).append(text)
    return [(name, "; ".join(dict.fromkeys(texts))) for name, texts in facts.items()]


def _sources(grid: ClaimGrid, cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return where a claim comes from: sweep.json, and the cells whose records it was computed from."""
    names = {grid.names[combination] for combination in grid.claims}
    hashes = sorted({one for cell in cells if cell["name"] in names for one in cell["config_hashes"]})
    return {
        "names": f"sweep.json: records of {len(names)} cells, which are named under Provenance",
        "hashes": ", ".join(hashes) if len(hashes) <= MAX_HASHES else f"one for each of {len(names)} cells",
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
        for cell in cells[:MAX_ROWS]
    ]
    more = len(cells) - len(rows)
    return Table("Cells", columns, rows, f"{more} more cells are in sweep.json." if more else "")
