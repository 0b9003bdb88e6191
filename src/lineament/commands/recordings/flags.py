"""Flags of `lineament analyze`, `advise` and `record-from-checkpoints`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from lineament.advice.options import TOPICS
from lineament.command_line.markers import Positional
from lineament.errors import InputError, unknown_name
from lineament.measurements.recording.options import AnalysisOptions
from lineament.settings.fields import AtLeastTwo, PositiveInt, Seed, Threads
from lineament.settings.model import DeviceName
from lineament.vectors.recording.stated_optimizer import StatedOptimizer

# Flags that say how a training outside a run folder is made again, and what it is judged on.
MADE_AGAIN = ("model", "adapter", "data", "held_out")


@dataclass(frozen=True)
class AnalysisFlags(StatedOptimizer):
    """Which recordings are analyzed, and what with."""

    paths: Positional[tuple[Path, ...]]
    """recordings, or one run folder; several recordings count as replicates of one training"""
    out: Path | None = None
    """folder of records and report; default analysis/ inside the first of them"""
    null: Path | None = None
    """recording of the same training on shuffled labels: its prefixes are the null of the captures"""
    other: Path | None = None
    """recording of the same training on data in another order"""
    end: Path | None = None
    """PEFT adapter folder: how much of the displacement to it the first updates capture"""
    window: AtLeastTwo = 20
    """recorded rows in a window whose planes are compared; even; short recordings use a shorter one"""
    plane_rank: PositiveInt = 5
    """rank of those planes, at most half of the window"""
    seed: Seed = 0
    """seed of the draws of random times"""
    threads: Threads = 2
    """torch threads"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""

    @property
    def folder(self) -> Path:
        """Folder of records and report."""
        return self.out or self.paths[0] / "analysis"

    @property
    def options(self) -> AnalysisOptions:
        """Options of the analysis, with the defaults of all that are no flags; `InputError` if they cannot be."""
        stated = StatedOptimizer(**{one.name: getattr(self, one.name) for one in fields(StatedOptimizer)})
        return AnalysisOptions(
            window=self.window,
            plane_rank=self.plane_rank,
            seed=self.seed,
            optimizer=stated if self.optimizer else None,
        )

    def require_usable(self) -> None:
        """Refuse what can be known to be wrong before a recording is read."""
        if not self.paths:
            raise InputError("name at least one recording or run folder.")


@dataclass(frozen=True)
class Analyze(AnalysisFlags):
    """Measure capture, drift, staleness and rank on recordings of any training; needs no model and no data."""


@dataclass(frozen=True)
class Advise(AnalysisFlags):
    """Print what recordings say about practice: steps that span the run, refresh intervals, staleness, rank used.

    Recordings that are not analyzed yet are analyzed first. With --check, each line that has a test is tested on the
    run's own model and data: those of the run folder that holds the recordings, or else --model and --data.
    """

    json: bool = False
    """print the lines as JSON"""
    check: bool = False
    """test the lines, by training again; takes 30 to 100 times the recorded training"""
    tests: str = ",".join(TOPICS)
    """tests that are made, comma separated; rank takes seconds, span and refresh train many times"""
    model: str | None = None
    """for recordings outside a run folder: the model that was trained (as it was before, for all weights)"""
    adapter: Path | None = None
    """for recordings of a LoRA adapter outside a run folder: any saved adapter of that training"""
    data: str | None = None
    """for recordings outside a run folder: the data that was trained on, in any form that `lineament run lm` reads"""
    held_out: str | None = None
    """for recordings outside a run folder: data that tests are judged on, no row of --data; default a part of it"""
    batch: PositiveInt = 16
    """examples per step when a training outside a run folder is made again"""
    examples: PositiveInt = 128
    """held-out examples on which such a training is judged; as many again choose step sizes"""
    device: DeviceName | None = None
    """auto, cpu or cuda, where tests train; default the run's, or auto"""

    def require_usable(self) -> None:
        """Refuse what can be known to be wrong before a recording is read, in flags that belong together too."""
        super().require_usable()
        given = [name for name in (*MADE_AGAIN, "device") if getattr(self, name) is not None]
        if given and not self.check:
            raise InputError(
                f"--{given[0].replace('_', '-')} says how a training is made again; give it together with --check."
            )
        for topic in self.topics:
            if topic not in TOPICS:
                raise unknown_name("test of advice", topic, TOPICS, "--tests")

    @property
    def topics(self) -> tuple[str, ...]:
        """Tests that are made."""
        return tuple(name.strip() for name in self.tests.split(","))


@dataclass(frozen=True)
class RecordFromCheckpoints(StatedOptimizer):
    """Make a recording from a folder of saved checkpoints or adapters (checkpoint-100, checkpoint-200, ...)."""

    folder: Positional[Path]
    """folder that holds them"""
    out: Path
    """folder of the recording"""
    start: Path | None = None
    """point before the first step, e.g. an adapter's saved step-0 factors"""
    allow_gaps: bool = False
    """accept checkpoints that are not equally far apart; the last one may always be nearer"""
    adapter: str | None = None
    """name of the adapter, where checkpoints hold several"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type of the recorded rows"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""
