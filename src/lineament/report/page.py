"""The report of a run: one self-contained page that opens with no network, made from the records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineament.claims.claims_file import read_claims
from lineament.claims.verdict import VERDICT_WORDS, Claim
from lineament.errors import InputError
from lineament.files.folders import IDENTITY
from lineament.files.reading import parse_toml, read_json, read_text
from lineament.files.writing import write_bytes
from lineament.records import ALL_TASKS, Record, load_records, target_words
from lineament.report import words
from lineament.report.rendering import assets, drawn, identifier, provenance_lines, template
from lineament.report.sections import recovery
from lineament.report.sections.registry import by_target, sections_of, sources_of
from lineament.report.sections.section import Opening, Section, definitions, missing_reasons
from lineament.report.series import Picture, undefined_notes
from lineament.report.sparse import instead_of_drawing, worth_drawing
from lineament.report.story import NOTE, story
from lineament.report.tidy import tidied
from lineament.report.verdicts import undecided_for_all, verdict_row
from lineament.settings.plain import flattened

DEFAULT_RANK = 10
# Where the headline rank stands in config.toml, and in what `lineament.measure` writes in its place.
HEADLINE_RANK = {False: "measurement.headline_rank", True: "settings.measurement.headline_rank"}
WITHOUT_RECOVERY = Opening(
    "Task",
    "the operating point, measured on",
    "A trained model was neither damaged nor recovered here. This page shows what was measured at the point to which "
    "it was trained.",
)


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
    """Return the page as text.

    Args:
        run: a run folder; only `records` is required.
    """
    records = load_records(run / "records")
    if not records:
        raise InputError(f"{run} holds no records. Give the folder that `lineament run --out` wrote.")
    claims = read_claims(run) if (run / "claims.json").exists() else None
    return render_records(records, claims, headline_rank(run), _config(run), provenance_lines(run))


def render_records(
    records: Sequence[Record],
    claims: Sequence[Claim] | None,
    rank: int = DEFAULT_RANK,
    config: str = "",
    provenance: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page of some records as text.

    Args:
        records: at least one, with their arrays.
        claims: None where nothing was judged yet.
        rank: the headline rank, whose pictures are shown.
        config: text of the configuration.
        provenance: (key, text) pairs.
    """
    targets = by_target(records)
    page: str = template("template.html.j2").render(
        records=records,
        overview=_overview(records, list(targets)),
        **_story(records, claims or ()),
        claims=[verdict_row(claim) for claim in claims or ()],
        undecided=undecided_for_all(claims or ()),
        verdicts=VERDICT_WORDS,
        has_claims=claims is not None,
        has_blind=any(claim.blind is not None for claim in claims or ()),
        targets=[_target(target, own, rank) for target, own in targets.items()],
        config=config,
        provenance=provenance,
        hashes=sorted({record.config_hash for record in records}),
        **assets(),
    )
    return page


def _config(run: Path) -> str:
    path = run / "config.toml"
    return read_text(path) if path.exists() else ""


def headline_rank(run: Path) -> int:
    """Return the rank that a folder's settings ask for; those that were damaged since count for nothing."""
    try:
        identity = run / IDENTITY
        body = read_json(identity) if identity.exists() else parse_toml(_config(run), "the configuration")
    except InputError:
        return DEFAULT_RANK
    rank = dict(flattened(body)).get(HEADLINE_RANK[identity.exists()]) if isinstance(body, dict) else None
    return rank if isinstance(rank, int) else DEFAULT_RANK


def _overview(records: Sequence[Record], targets: Sequence[str]) -> dict[str, Any]:
    """Return what the head of the page says about the run as a whole."""
    first, opening = records[0], _opening(sections_of({record.measurement for record in records}))
    # Of several targets, those that were damaged and recovered are what the page is about.
    named = [t for t in targets if t != ALL_TASKS] or list(map(target_words, targets))
    on_model = f"{', '.join(named)} on {words.model_words(first.model)}"
    return {
        "heading": opening.heading(first.model, named),
        "title": on_model if opening.of_model else opening.heading("", named),
        "opening": opening,
        "facts": opening.facts(records),
        "seeds": sorted({record.seed for record in records}),
        "space": words.SPACES.get(first.space, first.space),
        "n_params": f"{first.n_params:,}",
    }


def _story(records: Sequence[Record], claims: Sequence[Claim]) -> dict[str, Any]:
    """Return the lines of the first screen, from verdicts or from what the page is about, and how bars are read."""
    opening = _opening(sections_of({record.measurement for record in records}))
    if opening.judged:
        return {"story": story(claims), "story_note": NOTE}
    return {"story": opening.story(records), "story_note": opening.story_note}


def _opening(sections: Sequence[Section]) -> Opening:
    openings = [section.opening for section in sections]
    if len(openings) == 1 and openings[0] is not None:
        return openings[0]
    return recovery.OPENING if None in openings else WITHOUT_RECOVERY


def _target(target: str, records: Sequence[Record], rank: int) -> dict[str, Any]:
    """Return everything that the page shows about one target task."""
    sections = sections_of({record.measurement for record in records})
    return {
        "name": target_words(target),
        "title": _target_title(target, sections),
        "id": identifier(target),
        "failed": recovery.not_recovered(records),
        "sections": [_section(section, sources_of(section, records), rank) for section in sections],
    }


def _target_title(target: str, sections: Sequence[Section]) -> str:
    """Return the heading above all that is about one target."""
    return "All tasks" if target == ALL_TASKS else f"{_opening(sections).task_word}: {target}"


def _section(section: Section, sources: Sequence[Record], rank: int) -> dict[str, Any]:
    """Return one section of one target as the template needs it."""
    target = sources[0].target
    replicates = section.opening.replicates if section.opening else "seeds"
    made = [picture for picture in section.pictures(sources, rank) if picture is not None]
    pictures = [drawn(shown, target, _origin(shown.sources)) for picture in made if (shown := worth_drawing(picture))]
    bare = [picture for picture in made if worth_drawing(picture) is None]
    tables = [*map(instead_of_drawing, bare), *section.tables(sources, rank)]
    return {
        "id": f"{identifier(target)}-{section.anchor or section.measurement}",
        "title": section.title,
        "warning": section.warning(sources),
        "lead": section.subtitle,
        "grids": section.grids(sources),
        "pictures": pictures,
        "tables": [tidied(table, replicates) for table in tables if table is not None],
        "definitions": definitions(section, sources),
        "sources": _origin(sources),
        "missing": [] if pictures or any(tables) else missing_reasons(sources),
        "notes": [*section.remarks(sources), *_why_not_drawn(bare)],
    }


def _why_not_drawn(bare: Sequence[Picture]) -> list[str]:
    """Say why pictures have neither a drawing nor a table."""
    return [note for picture in bare if instead_of_drawing(picture) is None for note in undefined_notes(picture)]


def _origin(records: Sequence[Record]) -> Mapping[str, str]:
    """Return the files that something was made from, and the hashes of their configurations."""
    names = ", ".join(f"records/{record.name}.json" for record in records)
    return {"names": names, "hashes": ", ".join(sorted({record.config_hash for record in records}))}
