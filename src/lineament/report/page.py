"""The report of a run: one self-contained page that opens with no network, made from the records alone."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lineament.errors import InputError
from lineament.records import Record, load_records, write_bytes
from lineament.report import words
from lineament.report.rendering import assets, drawn, flat, identifier, optional_json, template
from lineament.report.sections import (
    dynamics,
    random_search,
    recording,
    recovery,
    search_subspaces,
    search_tables,
    steering,
    steering_effects,
    steering_tables,
    tables,
)
from lineament.report.series import Picture, Table, of
from lineament.report.verdicts import verdict_row

DEFAULT_RANK = 10
MEASUREMENTS = {
    "basis_capture": ("Where the way back lies", "share of the recovery inside small subspaces"),
    "basis_drift": ("How long directions last", "drift of the plane of gradients"),
    "gradient_rank": ("How many directions gradients use", "spectra of task gradients"),
    "random_search": (
        "How far random steps reach",
        "the best of N random steps, against what gradient and curvature foretell",
    ),
    "steering": (
        "Weight steps and steering vectors",
        "whether one gradient step moves activations where a steering vector does, and steers as it does",
    ),
    "recording": (
        "The recorded run",
        "what its first updates hold, how long its directions last, and how many it used",
    ),
}


def write_report(run: Path) -> Path:
    """Write `run/report.html` from `run/records` and what else is there (claims, configuration, provenance).

    Returns:
        The path of the page. The same files always give the same bytes.

    Raises:
        InputError: the folder holds no records.
    """
    path = run / "report.html"
    write_bytes(path, render(run).encode())
    return path


def render(run: Path) -> str:
    """The page as text.

    Args:
        run: a run folder; only `records` is required.
    """
    records = load_records(run / "records")
    if not records:
        raise InputError(f"{run} holds no records. Give the folder that `lineament run --out` wrote.")
    claims = optional_json(run / "claims.json")
    provenance = optional_json(run / "provenance.json") or {}
    config = _config(run)
    rank = _headline_rank(config)
    targets = list(dict.fromkeys(record.target for record in records))
    blocks = [_target(target, [r for r in records if r.target == target], rank) for target in targets]
    page: str = template("template.html.j2").render(
        records=records,
        overview=_overview(records, targets),
        claims=[verdict_row(claim) for claim in (claims or {}).get("claims", [])],
        has_claims=claims is not None,
        judged={record.measurement for record in records} != {"recording"},
        targets=blocks,
        config=config,
        provenance=sorted(flat(provenance)),
        hashes=sorted({record.config_hash for record in records}),
        **assets(),
    )
    return page


def _config(run: Path) -> str:
    path = run / "config.toml"
    return path.read_text() if path.exists() else ""


def _headline_rank(config: str) -> int:
    try:
        return int(tomllib.loads(config).get("measurement", {}).get("headline_rank", DEFAULT_RANK))
    except tomllib.TOMLDecodeError:
        return DEFAULT_RANK


def _overview(records: Sequence[Record], targets: Sequence[str]) -> dict[str, Any]:
    """What the head of the page says about the run as a whole."""
    first = records[0]
    alone = {frozenset({"steering"}): words.STEERED, frozenset({"recording"}): words.ANALYZED}
    task_word, what, lead = alone.get(frozenset(r.measurement for r in records), words.RECOVERED)
    seeds = sorted({record.seed for record in records})
    return {
        "model": first.model,
        "task_word": task_word,
        "what": what,
        "lead": lead,
        "problem": first.problem,
        "targets": list(targets),
        "seeds": seeds,
        "space": words.SPACES.get(first.space, first.space),
        "n_params": f"{first.n_params:,}",
    }


def _target(target: str, records: list[Record], rank: int) -> dict[str, Any]:
    """Everything the page shows about one target task."""
    sections = _curves_section(records)
    sections += [_section(name, records, rank) for name in MEASUREMENTS if of(records, name)]
    others = sorted({r.measurement for r in records} - set(MEASUREMENTS))
    sections += [_other_section(name, of(records, name)) for name in others]
    return {
        "name": target,
        "id": identifier(target),
        "failed": _failures(records),
        "sections": [{**section, "id": f"{identifier(target)}-{section['id']}"} for section in sections],
    }


def _failures(records: Sequence[Record]) -> list[str]:
    return [
        f"Seed {record.seed}: {figure.reason or 'not recovered'}. It has no capture and no drift."
        for record in of(records, "basis_capture")
        for figure in record.select("recovery_steps")
        if figure.value is None
    ]


def _curves_section(records: Sequence[Record]) -> list[dict[str, Any]]:
    sources = of(records, "basis_capture")
    if not sources:
        return []
    extra = [tables.evaluation_table(sources)]
    pictures = [dynamics.curves_picture(records)]
    lead = "what the damage did to every task, and the training that undid it"
    body = _body("recovery", "Damage and recovery", lead, pictures, extra, sources)
    return [{**body, "definitions": tables.definitions(sources, only=("evaluation", "recovery_steps"))}]


def _section(name: str, records: Sequence[Record], rank: int) -> dict[str, Any]:
    title, lead = MEASUREMENTS[name]
    makers: dict[str, Callable[[], tuple[list[Picture | None], list[Table | None]]]] = {
        "basis_capture": lambda: (
            [
                recovery.capture_picture(records, rank),
                recovery.recover_picture(records, rank),
                *recovery.grid_pictures(records, rank),
            ],
            [tables.later_table(records, rank), tables.space_table(records, rank), tables.krylov_table(records)],
        ),
        "basis_drift": lambda: ([dynamics.drift_picture(records), dynamics.drift_loss_picture(records)], []),
        "random_search": lambda: (
            [
                random_search.theorem_picture(records),
                random_search.counts_picture(records),
                search_subspaces.density_picture(records),
                search_subspaces.own_sigma_picture(records),
                search_subspaces.dimension_picture(records),
            ],
            search_tables.search_tables(records),
        ),
        "steering": lambda: (
            [
                steering.cosine_picture(records),
                steering.draws_picture(records),
                steering.linearity_picture(records),
                steering_effects.dose_picture(records),
                steering_effects.effect_picture(records),
            ],
            steering_tables.steering_tables(records),
        ),
        "recording": lambda: (
            [
                recording.span_picture(records),
                recording.planes_picture(records),
                recording.staleness_picture(records),
            ],
            recording.recording_tables(records),
        ),
        "gradient_rank": lambda: ([dynamics.spectrum_picture(records)], [tables.spectrum_table(records)]),
    }
    pictures, extra = makers[name]()
    return _body(name, title, lead, pictures, extra, of(records, name))


def _other_section(name: str, sources: Sequence[Record]) -> dict[str, Any]:
    """A measurement this page has no pictures for: its figures as a table."""
    return _body(name, name.replace("_", " "), "figures", [], [tables.plain_table(sources)], sources)


def _body(
    key: str,
    title: str,
    lead: str,
    pictures: Sequence[Picture | None],
    extra: Sequence[Table | None],
    sources: Sequence[Record],
) -> dict[str, Any]:
    shown = [drawn(picture, sources[0].target, _sources(picture.sources)) for picture in pictures if picture]
    return {
        "id": key,
        "title": title,
        "lead": lead,
        "pictures": shown,
        "tables": [table for table in extra if table is not None],
        "definitions": tables.definitions(sources),
        "sources": _sources(sources),
        "missing": tables.missing_reasons(sources) if not shown else [],
    }


def _sources(records: Sequence[Record]) -> dict[str, str]:
    names = ", ".join(f"records/{record.name}.json" for record in records)
    return {"names": names, "hashes": ", ".join(sorted({record.config_hash for record in records}))}
