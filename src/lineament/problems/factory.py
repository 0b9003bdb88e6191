"""How the problems of a kind are made, and what is known of them from the settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lineament.problems.kinds import kind_named
from lineament.problems.problem import Problem
from lineament.problems.progress import Progress
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings


def _no_check(settings: Settings) -> Iterator[Agreement]:
    return iter(())


def _no_base_file(settings: Settings, seed: int) -> Path | None:
    return None


@dataclass(frozen=True)
class Factory:
    """What a kind's module can do, as its `FACTORY`.

    Attributes:
        make: (settings, seed, progress) -> the problem of that seed, at theta_start.
        task_names: settings -> names of its tasks; `InputError` for an unknown one in `task.names`.
        check: settings -> what its keys demand of each other.
        base_file: (settings, seed) -> where its trained base model is cached; None if it trains none.
    """

    make: Callable[[Settings, int, Progress], Problem]
    task_names: Callable[[Settings], tuple[str, ...]]
    check: Callable[[Settings], Iterator[Agreement]] = _no_check
    base_file: Callable[[Settings, int], Path | None] = _no_base_file


def factory_of(settings: Settings) -> Factory:
    """Import the factory of the configured kind of problem."""
    factory: Factory = import_module(kind_named(settings.problem).module).FACTORY
    return factory
