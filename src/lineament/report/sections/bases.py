"""Bases as a reader meets them: readable name, group in the legend, and look. Sections list them in this order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lineament.report.series import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, Style
from lineament.report.words import GROUPS

# A group that the first word of a basis's name does not tell.
GROUP_OF = {"prefix": "own", "trajectory_top": "own", "task_vectors": "static", "random": "null"}
UNKNOWN_GROUP, UNKNOWN_STYLE = "control", Style(GREY, "dash")


@dataclass(frozen=True)
class Basis:
    """How one basis is called and drawn."""

    label: str
    style: Style


BASES = {
    "prefix": Basis("first k updates", Style(VERMILLION, width=3.5)),
    "trajectory_top": Basis("top k directions of all updates", Style(BLACK, "dot", "diamond")),
    "static_broken": Basis("task plane, damaged point", Style(BLUE, symbol="square", width=2.5)),
    "static_all_tasks": Basis("plane of all tasks, damaged point", Style(BLUE, "dash", "square", open=True)),
    "static_star": Basis("task plane, trained point", Style(BLUE, "dot", "triangle-up")),
    "static_start": Basis("task plane near the start", Style(BLUE, "dashdot", "triangle-down")),
    "static_hessian_top": Basis("sharpest Hessian directions", Style(BLUE, "longdash", "diamond", open=True)),
    "task_vectors": Basis("task vectors", Style(BLUE, "solid", "x")),
    "krylov": Basis("Krylov space", Style(PURPLE, "dash", "star", open=True)),
    "krylov_preconditioned": Basis("Krylov space, optimizer's metric", Style(PURPLE, "solid", "star")),
    "control_random_times": Basis("k updates at random times", Style(GREEN, "dash", "triangle-up")),
    "control_preconditioned": Basis("task plane, optimizer's metric", Style(GREEN, "solid", "square")),
    "control_frozen_run": Basis("k updates at the frozen damaged point", Style(GREEN, "dot", "diamond")),
    "control_other_data": Basis(
        "first k updates, other data order", Style(GREEN, "dashdot", "triangle-down", open=True)
    ),
    "control_other_data_2": Basis(
        "first k updates, third data order", Style(GREEN, "longdash", "triangle-down", open=True)
    ),
    "null_noise_prefix": Basis("first k updates, shuffled labels", Style(ORANGE, "dash", "x")),
    "null_mean_free_prefix": Basis("first k updates, mean gradient taken away", Style(ORANGE, "solid", "triangle-up")),
    "null_preconditioned_shuffled": Basis(
        "shuffled-label plane, optimizer's metric", Style(ORANGE, "dashdot", "square", open=True)
    ),
    "null_other_task": Basis("another task's plane", Style(ORANGE, "dot", "diamond", open=True)),
    "random": Basis("random directions", Style(GREY, "dot", "circle", open=True)),
}


def basis_label(name: str) -> str:
    """Return the readable name of a basis; an unknown one keeps its code name."""
    return BASES[name].label if name in BASES else name.replace("_", " ")


def style_of(name: str) -> Style:
    """Return how a basis is drawn; unknown ones all look the same."""
    return BASES[name].style if name in BASES else UNKNOWN_STYLE


def group_of(name: str) -> str:
    """Return the key in `GROUPS` of a basis: given, or the first word of its name."""
    group = GROUP_OF.get(name, name.split("_")[0])
    return group if group in GROUPS else UNKNOWN_GROUP


def is_static(name: str) -> bool:
    """Return whether a basis was fixed before the recovery."""
    return group_of(name) == "static"


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of bases in the order of `BASES`; unknown ones follow as they come."""
    given, known = list(names), list(BASES)
    return sorted(given, key=lambda name: known.index(name) if name in known else len(known))
