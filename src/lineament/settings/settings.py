"""The typed configuration of a run; nothing else configures one.

Each key is one field, in the file of its group: type and range in the annotation; default, meaning and unit in
`setting(...)`. A new key needs its field and nothing more. Defaults were fixed by base accuracy and recovery alone,
before any capture was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lineament.problems.kinds import KINDS
from lineament.settings.fields import NonEmpty, OneOf, Seed, SeedCount, Text, Threads, setting
from lineament.settings.geometry import GeometrySettings
from lineament.settings.measurement import MeasureSettings
from lineament.settings.model import DeviceName, LoraSettings, ModelSettings
from lineament.settings.plain import digest, to_dict
from lineament.settings.search import SearchSettings
from lineament.settings.steering import SteeringSettings
from lineament.settings.task import TaskSettings
from lineament.settings.training import DamageSettings, OperatingSettings, RecoverySettings, TrainingSettings


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's records."""

    problem: Annotated[str, OneOf(KINDS)] = setting(
        "synthetic", "Kind of problem: synthetic (the embedded transformer) or lm (a causal language model)."
    )
    preset: Literal["quick", "full"] = setting("full", "Preset that these settings started from.")
    seed: Seed = setting(0, "First seed; seeds run from `seed` to `seed + seeds - 1`.")
    seeds: SeedCount = setting(3, "Number of independent seeds; fewer than three give no interval.", "seeds")
    measure: NonEmpty[Text] = setting(("gradient_rank", "basis_capture", "basis_drift"), "Measurements to make.")
    device: DeviceName = setting("auto", "Device of the model; auto takes cuda when there is one.")
    threads: Threads = setting(
        1, "Number of torch threads per job; results are equal bit for bit only at the same number.", "threads"
    )
    model: ModelSettings = field(default_factory=ModelSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    operating: OperatingSettings = field(default_factory=OperatingSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    damage: DamageSettings = field(default_factory=DamageSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    measurement: MeasureSettings = field(default_factory=MeasureSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    steering: SteeringSettings = field(default_factory=SteeringSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)

    def hash(self) -> str:
        """Return the identity of the configuration, without seeds and measurements: those extend a run."""
        body = to_dict(self)
        for key in ("seed", "seeds", "measure"):
            del body[key]
        return digest(body)
