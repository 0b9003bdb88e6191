"""Flags of `lineament adapters`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lineament.command_line.markers import Positional
from lineament.errors import InputError
from lineament.settings.fields import Share, Threads


@dataclass(frozen=True)
class Adapters:
    """Look into LoRA adapters from their folders alone: rank used, noise, what they share; truncate or add them.

    Needs no base model and no data. Two or more adapters are compared with each other.
    """

    folders: Positional[tuple[Path, ...]]
    """PEFT adapter folders of one base model; an adapter's name is the end of its path"""
    share: Share = 0.9
    """share of |dW|^2 by which directions are counted: used, and compared between adapters"""
    combine: str | None = None
    """sum of adapters by name, as a=1,b=0.5: exact, by concatenated factors"""
    truncate: str | None = None
    """cut the adapter, or the sum, to a rank (4) or to a share of |dW|^2 in every module (0.99 or 99%)"""
    out: Path | None = None
    """new folder for the sum or the cut adapter, as PEFT loads it; without it the cost is only told"""
    report: Path | None = None
    """also write a page of all layers and modules, a file that ends in .html"""
    all: bool = False
    """show every module instead of kinds of modules and the strongest ones"""
    json: bool = False
    """print all figures as JSON"""
    threads: Threads = 1
    """torch threads; matrices are so small that more of them only wait for each other"""
    quiet: bool = False
    """show no progress, and not what to type next"""
    debug: bool = False
    """show tracebacks"""

    def check(self) -> None:
        """Refuse what can be known to be wrong before an adapter is read."""
        if not self.folders:
            raise InputError("name at least one adapter folder.")
        made = self.combine is not None or self.truncate is not None
        if self.out and not made:
            raise InputError("--out is for an adapter that is made: add --combine or --truncate.")
        if self.truncate is not None and len(self.folders) > 1 and self.combine is None:
            raise InputError("--truncate cuts one adapter: give one folder, or say which sum to cut with --combine.")
