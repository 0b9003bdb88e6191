"""What `lineament steer` works on: a language model with or without an adapter, and a user's labelled data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lineament.activations.blocks import find_blocks
from lineament.commands.search.target import adapter_settings
from lineament.errors import InputError
from lineament.parameters import hash_tensors
from lineament.problems.encoding import PROMPT
from lineament.problems.labelled_data import Item, LabelledData, Pair
from lineament.problems.language_model import LanguageModelProblem
from lineament.settings.presets import resolve
from lineament.settings.reading import updated
from lineament.steering.contrast import Contrast, answer_contrast, make_contrast
from lineament.steering.vector import SteeringVector


@dataclass(frozen=True)
class Source:
    """Which model, and how it is run.

    Attributes:
        adapter: PEFT folder that is part of the model; None for the bare checkpoint.
        space: which weights can move: `lora`, a fresh adapter that changes nothing yet, or `full`. With an adapter
            it is always the adapter.
        seed: of a fresh adapter's A factors.
        template: how a statement becomes a prompt; empty means as the vector's was, or `PROMPT`.
    """

    model: str
    adapter: Path | None = None
    space: str = "full"
    seed: int = 0
    threads: int = 2
    device: str = "auto"
    template: str = ""


class SteeredModel:
    """A loaded model with what vectors are checked against.

    Attributes:
        problem: the model at the adapter's weights, or with a fresh adapter that changes nothing.
    """

    def __init__(self, source: Source) -> None:
        if source.threads < 1:
            raise InputError(f"--threads {source.threads}: it must be at least 1.")
        if source.template and "{statement}" not in source.template:
            raise InputError(f"--template {source.template!r} has no {{statement}}, where the text goes.")
        torch.set_num_threads(source.threads)
        self.source, self.problem = source, _load(source)
        self.blocks = find_blocks(self.problem.model)

    @property
    def model(self) -> Any:
        """The module."""
        return self.problem.model

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.problem.model.config

    def weights_hash(self, *, bare: bool = False) -> str:
        """Hash over the checkpoint's weights, and the adapter's where one was given; a fresh one changes nothing.

        Args:
            bare: leave the adapter out.
        """

        def counted(name: str) -> bool:
            return ".lora_" not in name or (self.source.adapter is not None and not bare)

        return hash_tensors(
            (name.removeprefix("base_model.model.").replace(".base_layer.", "."), parameter)
            for name, parameter in self.problem.model.named_parameters()
            if counted(name)
        )

    def require_fit(self, vector: SteeringVector) -> None:
        """Raise `InputError` unless the vector belongs to this model; the hash is looked at where it has one."""
        known = self.weights_hash() if vector.tags.model_hash else ""
        vector.require_fit(self.source.model, known, len(self.blocks), int(self.config.hidden_size))

    def contrast(self, items: Sequence[Item], template: str = "") -> Contrast:
        """Statements or pairs as a contrast, truth or matching behaviour being positive.

        Args:
            template: of statements, where the source names none.
        """
        if isinstance(items[0], Pair):
            encoded = self.problem.encode_pairs([item for item in items if isinstance(item, Pair)])
            return answer_contrast(encoded.prompts, encoded.others)
        return make_contrast(self.problem.encode(items, self.source.template or template or PROMPT), "statement")


def _load(source: Source) -> LanguageModelProblem:
    changes = {"device": source.device, "threads": source.threads, "recovery.space": source.space}
    if source.adapter is None:
        layer = ("a flag", {"model.name": source.model, "seed": source.seed, **changes})
        return LanguageModelProblem(resolve("lm", "quick", [layer]), source.seed, for_study=False)
    changes["recovery.space"] = "lora"
    settings = updated(adapter_settings(source.model, source.adapter, source.seed), changes, "a flag")
    problem = LanguageModelProblem(settings, source.seed, for_study=False)
    assert problem.operating_point is not None
    problem.parameters.write(problem.operating_point)
    return problem


def row_hashes(data: LabelledData) -> tuple[str, ...]:
    """Short hashes of all texts and groups (a passage, say): held-out rows must share neither."""
    return tuple(sorted({found for item in data.items for found in _hashes_of(item)}))


def require_new(vector: SteeringVector, held_out: LabelledData) -> bool:
    """Raise `InputError` naming the lines of held-out rows that the vector was made from.

    Returns:
        Whether that could be checked: a vector from elsewhere does not say what it was made from.
    """
    seen = set(vector.tags.row_hashes)
    pairs = zip(held_out.items, held_out.lines, strict=True)
    lines = [line for item, line in pairs if seen & _hashes_of(item)]
    if lines:
        shown = ", ".join(map(str, lines[:8])) + (", ..." if len(lines) > 8 else "")
        raise InputError(
            f"the vector was made from {len(lines)} of the {len(held_out.items)} rows of {held_out.path}, or from "
            f"others of their group (lines {shown}): its effect on them says nothing of new ones. Give held-out data."
        )
    return bool(seen)


def _hashes_of(item: Item) -> set[str]:
    """Of the text and its group, in any case and spacing."""
    plain = {" ".join(text.casefold().split()) for text in (item.text, item.group)}
    return {hashlib.blake2b(text.encode(), digest_size=6).hexdigest() for text in plain}
