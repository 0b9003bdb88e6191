"""The model that `lineament steer` works on: a language model with or without an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lineament.activations.blocks import find_blocks
from lineament.commands.steer.flags import ModelFlags
from lineament.parameters import hash_tensors
from lineament.problems.labelled_data import Item, Pair
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.stored_adapters import adapter_settings
from lineament.settings.presets import resolve
from lineament.settings.reading import updated
from lineament.steering.contrast import Contrast, answer_contrast, make_contrast
from lineament.steering.vector import SteeringVector, VectorTags


@dataclass(frozen=True)
class Wording:
    """How rows of data become prompts.

    Attributes:
        template: of statements; empty for the default.
        chat: whether they are the user's message in the tokenizer's chat template.
    """

    template: str = ""
    chat: bool = False


class SteeredModel:
    """A loaded model with what vectors are checked against.

    Args:
        space: which weights can move: `lora`, a fresh adapter that changes nothing yet, or `full`. With --adapter it is
            always the adapter.

    Attributes:
        problem: the model at the adapter's weights, or with a fresh adapter that changes nothing.
    """

    def __init__(self, flags: ModelFlags, space: Literal["lora", "full"] = "full") -> None:
        torch.set_num_threads(flags.threads)
        self.flags, self.problem = flags, _load(flags, space)
        self.blocks = find_blocks(self.problem.model)

    @property
    def model(self) -> Any:
        """Return the module."""
        return self.problem.model

    @property
    def config(self) -> Any:
        """Return the model's configuration."""
        return self.problem.model.config

    def weights_hash(self, *, bare: bool = False) -> str:
        """Return a hash over the checkpoint's weights, and over those of --adapter; a fresh adapter changes nothing.

        Args:
            bare: leave the adapter out.
        """

        def counted(name: str) -> bool:
            return ".lora_" not in name or (self.flags.adapter is not None and not bare)

        return hash_tensors(
            (name.removeprefix("base_model.model.").replace(".base_layer.", "."), parameter)
            for name, parameter in self.problem.model.named_parameters()
            if counted(name)
        )

    def require_fit(self, vector: SteeringVector) -> None:
        """Raise `InputError` unless the vector belongs to this model; its hash is compared where it has one."""
        known = self.weights_hash() if vector.tags.model_hash else ""
        vector.require_fit(self.flags.model, known, len(self.blocks), int(self.config.hidden_size))

    def wording(self, tags: VectorTags) -> Wording:
        """Return how prompts are written: as the flags say, else as the vector's were.

        Raises:
            InputError: a chat template is wanted and there is none.
        """
        flags = self.flags
        chat = flags.chat or (tags.chat and not getattr(flags, "no_chat", False))
        if chat:
            self.problem.encoder.rows.require_chat_template()
        return Wording(flags.template or tags.template, chat)

    def contrast(self, items: Sequence[Item], wording: Wording) -> Contrast:
        """Encode statements or pairs as a contrast; truth, or the matching behaviour, is positive."""
        if isinstance(items[0], Pair):
            pairs = [item for item in items if isinstance(item, Pair)]
            encoded = self.problem.encode_pairs(pairs, chat=wording.chat)
            return answer_contrast(encoded.prompts, encoded.others)
        return make_contrast(self.problem.encode(items, wording.template, chat=wording.chat), "statement")


def _load(flags: ModelFlags, space: str) -> LanguageModelProblem:
    here = {"device": flags.device, "threads": flags.threads}
    if flags.adapter is None:
        changes = {"model.name": flags.model, "seed": flags.seed, **here, "recovery.space": space}
        settings = resolve("lm", "quick", [("a flag", changes)])
        return LanguageModelProblem(settings, flags.seed, for_study=False)
    settings = adapter_settings(flags.model, flags.adapter, flags.seed)
    settings = updated(settings, {**here, "recovery.space": "lora"}, "a flag")
    problem = LanguageModelProblem(settings, flags.seed, for_study=False)
    assert problem.operating_point is not None
    problem.parameters.write(problem.operating_point)
    return problem
