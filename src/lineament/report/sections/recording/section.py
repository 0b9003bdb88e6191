"""The recorded run: what its first updates capture, how long its directions last, and how many it used."""

from __future__ import annotations

from lineament.claims.advice_tests import MEASUREMENT
from lineament.report.sections.recording.pictures import planes_picture, span_picture, staleness_picture
from lineament.report.sections.recording.tables import advice_table, module_table, told_table
from lineament.report.sections.section import Opening, Section, each

OPENING = Opening(
    "Training",
    "recorded training of",
    "A training run was recorded update by update. This page shows how much of its displacement the first updates "
    "capture, how long its directions last, and how many of them it used.",
    judged=False,
    replicates="recordings",
)
SECTION = Section(
    "recording",
    "The recorded run",
    "what its first updates capture, how long its directions last, and how many of them it used",
    pictures=each(span_picture, planes_picture, staleness_picture),
    tables=each(told_table, advice_table, module_table),
    opening=OPENING,
    also=(MEASUREMENT,),
)
