"""Every section of a run's report in the order of the page, one line each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lineament.records import ALL_TASKS, Record
from lineament.report.sections import basis_drift, capture_by_horizon, capture_without_momentum, gradient_rank, recovery
from lineament.report.sections.basis_capture import section as basis_capture
from lineament.report.sections.composition import section as composition
from lineament.report.sections.generic import generic_section
from lineament.report.sections.local_geometry import section as local_geometry
from lineament.report.sections.random_search import section as random_search
from lineament.report.sections.recording import section as recording
from lineament.report.sections.section import Section
from lineament.report.sections.steering import section as steering

SECTIONS = (
    recovery.SECTION,
    basis_capture.SECTION,
    capture_by_horizon.SECTION,
    capture_without_momentum.SECTION,
    basis_drift.SECTION,
    gradient_rank.SECTION,
    random_search.SECTION,
    steering.SECTION,
    local_geometry.SECTION,
    recording.SECTION,
    composition.SECTION,
)


def sections_of(measurements: Collection[str]) -> list[Section]:
    """Return the sections that show some measurements; one that has no section gets a table after all others."""
    shown = [section for section in SECTIONS if section.measurement in measurements]
    covered = {name for section in shown for name in (section.measurement, *section.also)}
    return [*shown, *(generic_section(name) for name in sorted(set(measurements) - covered))]


def by_target(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return target -> its records in the order of the page: what is of all tasks comes last."""
    targets: dict[str, list[Record]] = {}
    for record in records:
        targets.setdefault(record.target, []).append(record)
    return dict(sorted(targets.items(), key=lambda item: item[0] == ALL_TASKS))


def sources_of(section: Section, records: Sequence[Record]) -> list[Record]:
    """Return those of one target's records that a section shows, its own measurement's first."""
    return [record for name in (section.measurement, *section.also) for record in records if record.measurement == name]
