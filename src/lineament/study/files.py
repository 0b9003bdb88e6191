"""Where the stages of a study are kept. Whoever owns the folder hands the paths in; nothing here knows its layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecoveryFiles:
    """Where one recovery is kept.

    Attributes:
        curve: JSON of how it went.
        recording: folder of its recorded updates.
    """

    curve: Path
    recording: Path


@dataclass(frozen=True)
class StudyFiles:
    """Where the finished stages of one target and seed are kept.

    Attributes:
        operating_point: safetensors of the points before damage; the targets of a seed share it.
        damage: safetensors of the damaged point.
        recovery: the recovery as configured.
        second_recovery: the one without momentum.
        effects: JSON of every task's loss and accuracy at every point.
        geometry: folder of the stages of the local geometry; the targets of a seed share it.
    """

    operating_point: Path
    damage: Path
    recovery: RecoveryFiles
    second_recovery: RecoveryFiles
    effects: Path
    geometry: Path

    @classmethod
    def inside(cls, folder: Path) -> StudyFiles:
        """Return the files of a study that has a folder to itself, e.g. a temporary one."""
        return cls(
            folder / "operating.safetensors",
            folder / "damage.safetensors",
            RecoveryFiles(folder / "recovery.json", folder / "recording"),
            RecoveryFiles(folder / "second-recovery.json", folder / "second-recording"),
            folder / "effects.json",
            folder / "geometry",
        )
