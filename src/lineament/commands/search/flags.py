"""Flags of `lineament search`, which the whole tool takes as they were parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from lineament.command_line.markers import Positional
from lineament.errors import InputError, require_package, unknown_name
from lineament.runs.executors.options import ExecutorOptions
from lineament.settings.fields import AtLeastTwo, NonNegativeInt, PositiveFloat, PositiveInt, Seed, Threads
from lineament.settings.model import DeviceName

Budget = Annotated[int, Interval(ge=1, le=10**9)]


@dataclass(frozen=True)
class SearchOptions:
    """How much a search may spend, and how: what `choose` and `run_search` need to know."""

    budget: Budget = 2000
    """member evaluations in all, including those of the probe"""
    method: str = "one_shot"
    """one_shot, recentre (move to the best), es (evolution strategy) or cmaes"""
    population: AtLeastTwo = 64
    """members per generation"""
    sigma: PositiveFloat | None = None
    """standard deviation per coordinate; default chosen by plan and probe"""
    probe: NonNegativeInt = 16
    """draws per region and sigma of the probe; 0 trusts the plan"""
    examples: PositiveInt = 16
    """training examples that members are scored on"""
    keep: PositiveInt = 8
    """members that are kept, and whose majority votes"""
    no_gradients: bool = False
    """forward passes only: no plan from gradient and curvature"""
    memory_mib: Budget = 1024
    """bound on what a pass of members holds beyond the model, MiB"""

    @property
    def gradients(self) -> bool:
        """Whether gradients and curvature may be computed."""
        return not self.no_gradients

    @property
    def memory_bytes(self) -> int:
        """The memory bound in bytes."""
        return self.memory_mib * 2**20

    def identity(self) -> dict[str, object]:
        """Return everything that decides the result, under the names in request.json; memory changes no result."""
        return {
            "method": self.method,
            "budget": self.budget,
            "population": self.population,
            "sigma": self.sigma,
            "probe_draws": self.probe,
            "examples": self.examples,
            "keep": self.keep,
            "gradients": self.gradients,
        }


@dataclass(frozen=True)
class TargetFlags:
    """Which model is searched around, and where."""

    run: Positional[Path | None] = None
    """run folder whose damaged, trained or fresh point is searched around; or else --model, --adapter and --task"""
    model: str | None = None
    """smollm2-135m, a local folder, a .gguf file or a hub name"""
    adapter: Path | None = None
    """PEFT adapter folder to search around"""
    task: str | None = None
    """task that members are scored on; default the run's first"""
    point: str = "broken"
    """point of the run: broken (damaged), star (trained) or start"""
    seed: Seed | None = None
    """seed of the run, and of the draws; default the run's first, or 0"""
    basis: tuple[str, ...] = ()
    """where to draw, repeatable: full, gradient, prefix, krylov, random or FILE.safetensors; default all that the
    model allows, except krylov"""
    rank: PositiveInt = 10
    """directions of each basis"""


@dataclass(frozen=True)
class Search(ExecutorOptions, SearchOptions, TargetFlags):
    """Random search around a model's weights that tells its odds before it spends the budget.

    Plans from one gradient and a few curvature probes, spends a small probe of the budget where that plan cannot say
    how far to go, then searches with forward passes only and saves the winner as a PEFT adapter.
    """

    save_kept: bool = False
    """write every kept member as an adapter folder, not the winner alone"""
    plan: bool = False
    """print the plan and what a probe predicts, then stop and write nothing; with --probe 0 from gradient and curvature
    alone"""
    out: Path | None = None
    """folder of the search; default runs/search-TASK-METHOD"""
    resume: bool = False
    """continue the search in --out"""
    threads: Threads = 2
    """torch threads"""
    device: DeviceName = "auto"
    """auto, cpu or cuda"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""

    def check(self) -> None:
        """Refuse flags that can be known to be wrong before anything is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        from lineament.commands.search.methods import METHODS

        self.require_allowed()
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.method == "cmaes":
            require_package("cmaes", "search", "--method cmaes")
        if self.budget < self.population:
            raise InputError(
                f"--budget {self.budget} is below one population of {self.population}; raise it or lower --population."
            )
        if (self.run is None) == (self.model is None or self.adapter is None):
            raise InputError("say what to search around: give a run folder, or --model with --adapter and --task.")
        if self.run is None and self.task is None:
            raise InputError("--model needs --task: the statement task that members are scored on.")
