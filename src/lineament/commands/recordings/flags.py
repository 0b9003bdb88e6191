"""`lineament analyze`, `advise` and `record-from-checkpoints`: their flags, and their dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from lineament.commands.recordings.command import Request


@dataclass(frozen=True)
class _OnRecordings:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """recordings, or one run folder; several recordings are taken for replicates of one training"""
    out: Path | None = None
    """folder of records and report; default analysis/ inside the first of them"""
    null: Path | None = None
    """recording of the same training on shuffled labels: its prefixes are the null of the captures"""
    other: Path | None = None
    """recording of the same training on data in another order"""
    end: Path | None = None
    """PEFT adapter folder: how much of the way to it the first updates hold"""
    window: int = 20
    """recorded rows in a window whose planes are compared; even, and shorter in short recordings"""
    plane_rank: int = 5
    """rank of those planes, at most half of the window"""
    seed: int = 0
    """of the draws of random times"""
    threads: int = 2
    """torch threads"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""

    def request(self) -> Request:
        """As the tools take it."""
        from lineament.commands.recordings.command import Request
        from lineament.measurements.recording.options import AnalysisOptions

        options = AnalysisOptions(window=self.window, plane_rank=self.plane_rank, seed=self.seed)
        return Request(self.paths, self.out, self.null, self.other, self.end, options, self.threads)


@dataclass(frozen=True)
class Analyze(_OnRecordings):
    """Measure capture, drift, staleness and rank on recordings of any training; needs no model and no data."""


@dataclass(frozen=True)
class Advise(_OnRecordings):
    """What recordings say about practice: steps that span the run, refresh intervals, staleness, rank used.

    Analyzes first what is not analyzed yet.
    """

    json: bool = False
    """print the lines as JSON"""


@dataclass(frozen=True)
class RecordFromCheckpoints:
    """Make a recording from a folder of saved checkpoints or adapters (checkpoint-100, checkpoint-200, ...)."""

    folder: tyro.conf.Positional[Path]
    """folder that holds them"""
    out: Path
    """folder of the recording"""
    start: Path | None = None
    """the point before the first step, e.g. an adapter's saved step-0 factors"""
    allow_gaps: bool = False
    """take checkpoints that are not equally far apart"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the recorded rows"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""


def run(command: Analyze | Advise | RecordFromCheckpoints) -> int:
    """Carry a parsed command out; returns the exit code."""
    from lineament.commands.recordings import command as commands

    match command:
        case Analyze():
            return commands.show_analysis(command.request(), command.quiet)
        case Advise():
            return commands.show_advice(command.request(), command.json, command.quiet)
        case RecordFromCheckpoints():
            return commands.record(
                command.folder, command.out, command.start, command.allow_gaps, command.dtype, command.quiet
            )
