"""What a composition works on: two adapters of one base, the base, and examples of each adapter's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lineament.commands.compose.flags import Compose
from lineament.errors import InputError
from lineament.merging.options import require_examples
from lineament.merging.side_branches import SideBranches, scale_derivatives
from lineament.merging.spectra import require_finite
from lineament.problems.drawn_examples import draw_from, encoded
from lineament.problems.frozen_linear import quicken
from lineament.problems.labelled_data import LabelledData, Passage, read_labelled
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import Batch
from lineament.problems.stored_adapters import StoredAdapter, read_adapter
from lineament.settings.presets import resolve
from lineament.streams import Streams
from lineament.vectors.gradients import derivatives_required


@dataclass(frozen=True)
class Examples:
    """Examples of one data set, in random order.

    Attributes:
        validation: whether an example may choose scales, (n_examples,); rows of one group are on one side.
        name: the file's. notes: what was done with its rows that a user may not expect.
    """

    batch: Batch
    validation: Tensor
    name: str
    notes: tuple[str, ...]


def read_adapters(flags: Compose) -> tuple[StoredAdapter, StoredAdapter]:
    """Read both adapters.

    Raises:
        InputError: one is no plain LoRA or is not finite, or they say that their bases are different.
    """
    first, second = read_adapter(flags.first), read_adapter(flags.second)
    for adapter, folder in ((first, flags.first), (second, flags.second)):
        try:
            require_finite(adapter)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
    one, other = first.base_model, second.base_model
    if one and other and not _alike(one, other):
        raise InputError(
            f"{flags.first} says that its base model is {one}, and {flags.second} that it is {other}. Adapters "
            "of different bases cannot be added. If both mean the same model, write one name into both "
            "adapter_config.json (base_model_name_or_path)."
        )
    return first, second


def read_data(flags: Compose) -> tuple[LabelledData, LabelledData]:
    """Read both files; `InputError` for too few rows, running text aside, of which one row can be enough."""
    found = read_labelled(flags.data[0]), read_labelled(flags.data[1])
    for data in found:
        if not isinstance(data.items[0], Passage):
            require_examples(len(data.items), str(data.path))
    return found


def _alike(one: str, other: str) -> bool:
    """Compare names of models: a folder here may be a copy of what has the same name elsewhere."""
    return Path(one).name.lower() == Path(other).name.lower()


def base_of(flags: Compose, adapters: Sequence[StoredAdapter]) -> tuple[str, tuple[str, ...]]:
    """Return the model to load, and a note where it is not the one that the adapters name.

    Raises:
        InputError: neither --model nor the adapters name one.
    """
    named = next((one.base_model for one in adapters if one.base_model), "")
    if not flags.model and not named:
        raise InputError("The adapters do not name their base model; name it with --model.")
    if flags.model and named and not _alike(flags.model, named):
        note = f"the adapters name the base model {named}; everything here is measured on --model {flags.model}"
        return flags.model, (note,)
    own = "smollm2-135m"  # a package, under the name of the model on the hub
    return flags.model or (own if _alike(named, own) else named), ()


def load_base(flags: Compose, model: str, adapters: Sequence[StoredAdapter]) -> LanguageModelProblem:
    """Load the base without any adapter, its weights frozen; `InputError` if the adapters do not fit it."""
    changes = {"model.name": model, "seed": flags.seed, "recovery.space": "full"}
    changes |= {"device": flags.device, "threads": flags.threads}
    torch.set_num_threads(flags.threads)
    problem = LanguageModelProblem(resolve("lm", "quick", [("a flag", changes)]), flags.seed, for_study=False)
    problem.model.requires_grad_(False)
    quicken(problem.model)
    SideBranches(problem.model, adapters)
    return problem


def require_curvature(problem: LanguageModelProblem, adapters: Sequence[StoredAdapter], batch: Batch) -> None:
    """Try the derivatives on one example; `InputError` if the model has an operation without second derivatives."""
    lacks = "has no second derivatives, which predict the interference"
    with derivatives_required(problem, lacks, "Give adapters of another model."):
        scale_derivatives(problem, SideBranches(problem.model, adapters), batch.rows(slice(0, 1)), (0, 1))


def draw_examples(problem: LanguageModelProblem, data: LabelledData, n: int, streams: Streams) -> Examples:
    """Draw and encode up to `n` examples, and divide them into validation and held-out ones.

    Raises:
        InputError: too few examples, all of one group, or a row that the model cannot take; names file and line.
    """
    drawn = draw_from(problem, data, n, streams.generator("examples"))
    require_examples(len(drawn.items), str(data.path))
    validation = halved(drawn.groups, streams.generator("halves"))
    if min(int(validation.sum()), int((~validation).sum())) < 2:
        raise InputError(
            f"{data.path}: nearly all of its rows are of one group, which is not divided; give rows of several groups, "
            "half of which choose scales and half of which judge them."
        )
    return Examples(encoded(problem, drawn), validation, data.path.name, drawn.notes)


def halved(groups: Sequence[str], generator: np.random.Generator) -> Tensor:
    """Divide examples into two halves as equal as whole groups allow, (n_examples,) True in one of them."""
    names = list(dict.fromkeys(groups))
    names = [names[i] for i in generator.permutation(len(names))]
    names.sort(key=groups.count, reverse=True)
    inside, counts = set(), [0, 0]
    for name in names:
        side = int(counts[1] <= counts[0])
        counts[side] += groups.count(name)
        if side:
            inside.add(name)
    return torch.tensor([group in inside for group in groups])
