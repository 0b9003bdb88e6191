"""The recorded run: what its first updates capture, how long its directions last, and how many it used."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.advice_tests import MEASUREMENT
from lineament.records import Record
from lineament.report.estimates import number
from lineament.report.sections.recording.modules import module_grids, module_table
from lineament.report.sections.recording.pictures import planes_picture, span_picture, staleness_picture
from lineament.report.sections.recording.story import NOTE, recording_story
from lineament.report.sections.recording.tables import advice_tables, told_table
from lineament.report.sections.section import Opening, Section, each
from lineament.report.words import model_words

NAME = "recording"


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return which model was trained, and what was recorded of it."""
    models = ", ".join(dict.fromkeys(model_words(record.model) for record in records))
    rows, steps = (_counts(records, what) for what in ("rows", "steps"))
    return [("model", models), ("recorded", f"{rows} updates over {steps} steps")]


def _counts(records: Sequence[Record], what: str) -> str:
    """Return how many of a thing recordings hold; where they differ, the fewest and the most."""
    counts = sorted(float(q.value or 0) for record in records for q in record.select("recorded", what=what))
    return " to ".join(dict.fromkeys(number(end) for end in (*counts[:1], *counts[-1:])))


OPENING = Opening(
    "Training",
    "recorded training of",
    "A training run was recorded update by update. This page shows how much of its displacement the first updates "
    "capture, how long its directions last, and how many of them it used.",
    judged=False,
    replicates="recordings",
    of_model=False,
    unnamed=NAME,
    facts=_facts,
    story=recording_story,
    story_note=NOTE,
)
SECTION = Section(
    NAME,
    "The recorded run",
    "what its first updates capture, how long its directions last, and how many of them it used",
    pictures=each(span_picture, planes_picture, staleness_picture),
    tables=lambda sources, _: [told_table(sources), *advice_tables(sources), module_table(sources)],
    grids=module_grids,
    opening=OPENING,
    also=(MEASUREMENT,),
)
