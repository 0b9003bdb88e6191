"""What every measurement shares: its name, its definitions and the frozen record it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lineament.records import Quantity, Record
from lineament.study.study import OperatingStudy


def make_record(
    study: OperatingStudy,
    measurement: str,
    figures: Sequence[Quantity],
    definitions: Mapping[str, str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Record:
    """A record of one measurement on one study."""
    space = study.problem.parameters.space
    return Record(
        measurement=measurement,
        target=study.target,
        seed=study.seed,
        problem=study.problem.name,
        model=study.problem.model_name,
        space=space.kind,
        n_params=space.n_params,
        config_hash=study.settings.hash(),
        quantities=tuple(figures),
        definitions=dict(definitions),
        arrays=dict(arrays or {}),
    )
