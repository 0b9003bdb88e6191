"""Every kind of problem by name: what is known of it without making one. To add a kind, add its row.

A row imports nothing but names the module that makes such problems, as its `FACTORY` (see `factory`): presets, `--help`
and usage errors read the rows without the seconds that torch and transformers take to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lineament.errors import unknown_name


@dataclass(frozen=True)
class ProblemKind:
    """A kind of problem, as `Settings.problem` names it.

    Attributes:
        module: where its `FACTORY` is.
        summary: what it is, for `--help`.
        model: default of `model.name`.
        targets: default of `task.targets`.
        takes_model: whether the model is the user's: only then `model.adapter` and `model.dtype` mean something, and
            such a problem is made once before anything is written, since a wrong name or module must leave no trace.
        trains_base: whether a base model is trained before anything else, and cached.
        has_widths: whether it can be made again with another `model.width`.
        refused_flags: flag of `lineament run` that means nothing for it -> what to do instead.
    """

    module: str
    summary: str
    model: str
    targets: tuple[str, ...]
    takes_model: bool = False
    trains_base: bool = False
    has_widths: bool = False
    refused_flags: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, ProblemKind] = {
    "synthetic": ProblemKind(
        "lineament.problems.synthetic",
        "the embedded transformer",
        model="synthetic",
        targets=("sort",),
        trains_base=True,
        has_widths=True,
        refused_flags={
            "--model": "the synthetic model is set by --set model.width=... .",
            "--data": "the synthetic tasks make their own data.",
            "--adapter": "the synthetic model trains its own.",
        },
    ),
    "lm": ProblemKind(
        "lineament.problems.language_model",
        "a causal language model",
        model="smollm2-135m",
        targets=("words",),
        takes_model=True,
    ),
}


def kind_named(name: str) -> ProblemKind:
    """Return a kind's row; `InputError` with the nearest match for an unknown one."""
    if name not in KINDS:
        raise unknown_name("problem", name, KINDS)
    return KINDS[name]
