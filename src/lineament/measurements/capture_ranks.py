"""At which ranks captures are measured: those asked for, as far as the recovery's length allows."""

from __future__ import annotations

from collections.abc import Mapping

from lineament.bases import Basis
from lineament.measurements.families import STATIC
from lineament.study.study import Study


def usable_ranks(study: Study) -> list[int]:
    """Return the asked-for ranks up to T; a prefix of more updates than T does not exist."""
    return [rank for rank in study.settings.measurement.ranks if rank <= study.recovered_at]


def why_unusable(study: Study, rank: int) -> str:
    """Say why nothing is measured at a rank above T."""
    below = f"rank {rank}" if usable_ranks(study) else f"every rank {study.settings.measurement.ranks}"
    return f"T = {study.recovered_at} is below {below}"


def compared_ranks(study: Study, bases: Mapping[str, Basis]) -> list[int]:
    """Return all ranks asked for, and the full ranks of static bases below the headline rank.

    Every basis gets figures at those too, so that each comparison is at equal rank.
    """
    m = study.settings.measurement
    own = {bases[name].rank for name in STATIC if name in bases}
    return sorted({*m.ranks, *(rank for rank in own if rank < m.headline_rank)})
