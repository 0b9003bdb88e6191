"""Flags of the six actions of `lineament steer`, which the tools take as they were parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from lineament.command_line.markers import Positional
from lineament.errors import InputError
from lineament.settings.fields import (
    AnyFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Threads,
)
from lineament.settings.model import DeviceName

# `both` makes two vectors.
Method = Literal["caa", "pca", "probe", "step", "both", "adapter"]
STEP_METHODS = ("step", "both")
# Rows of neutral text on which a KL is measured.
NEUTRAL_ROWS = 32
MAX_LAYERS = 9999
MAX_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which model, and how it is run."""

    HEADING: ClassVar[str] = "The model and how it is run"

    model: str = "smollm2-135m"
    """smollm2-135m, a local folder, a .gguf file or a hub name"""
    adapter: Path | None = None
    """PEFT adapter folder that is part of the model"""
    seed: Seed = 0
    """seed of a fresh adapter, of sampling and of random directions"""
    threads: Threads = 2
    """torch threads"""
    device: DeviceName = "auto"
    """auto, cpu or cuda"""
    template: str = ""
    """prompt of a statement, e.g. "{statement}" for the bare text; default "{statement} Answer:", whose answer is
    " True" or " False", or what the vector was made with; with --chat the text and "True or False?" below it"""
    chat: bool = False
    """write prompts with the tokenizer's chat template, as the user's message; a vector that was made so is also
    judged and used so"""
    show_tokens: bool = False
    """show which tokens of the first rows are read and which are steered"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""

    def check_model(self) -> None:
        """Refuse what can be known to be wrong before a model is loaded."""
        if self.template and "{statement}" not in self.template:
            raise InputError(f"--template {self.template!r} has no {{statement}}, where the text goes.")
        if self.chat and getattr(self, "no_chat", False):
            raise InputError("--chat and --no-chat were given; give one of them.")


@dataclass(frozen=True)
class Make(ModelFlags):
    """Make a steering vector from labelled data, or from an adapter.

    Data are statements with a label, or questions with a matching and a not-matching answer (JSONL, JSON, CSV).
    """

    data: Positional[Path]
    """labelled file"""
    out: Path = Path("vector.safetensors")
    """file of the vector; with --method both, the step's is named OUT-step"""
    method: Method = "caa"
    """caa (mean difference), pca, probe (logistic), step (shift by one gradient step), both (caa and step), or
    adapter (shift that --adapter makes)"""
    step: Literal["raw", "adam"] = "raw"
    """raw gradient, or Adam's first step"""
    space: Literal["lora", "full"] = "lora"
    """weights that the step moves: a LoRA adapter (fresh without --adapter) or all"""
    layers: str = "all"
    """all, or numbers and ranges such as 4,8-12; layer l is the output of block l, from 1"""
    site: Literal["block", "attention", "mlp"] = "block"
    """output of the whole block, of its attention or of its MLP"""
    mean: bool = False
    """read the mean over all tokens but the first, instead of the last one (of statements) or the answer (of pairs)"""
    unit: bool = False
    """scale every direction to norm 1"""
    save_step: Path | None = None
    """also save the step as a PEFT adapter in this folder"""
    step_norm: PositiveFloat = 1.0
    """length of the saved step, in weight units"""
    overwrite: bool = False
    """replace files that exist"""

    @property
    def moves_weights(self) -> bool:
        """Whether the method makes a step in weight space."""
        return self.method in STEP_METHODS

    @property
    def moved_space(self) -> Literal["lora", "full"]:
        """The weights that can move; only a step needs a fresh adapter to move."""
        return self.space if self.moves_weights else "full"

    def outputs(self) -> dict[str, Path]:
        """Return the file of each vector by name; of two, the step's is named beside the other's."""
        if self.method != "both":
            return {self.method: self.out}
        return {"caa": self.out, "step": self.out.with_name(f"{self.out.stem}-step.safetensors")}

    def check(self) -> None:
        """Refuse what can be known to be wrong before a model is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        self.check_model()
        if self.method == "adapter" and self.adapter is None:
            raise InputError("--method adapter needs --adapter: the folder whose effect becomes a vector.")
        if self.out.suffix != ".safetensors":
            raise InputError(
                f"--out must be a .safetensors file; got {self.out}. `lineament steer export` writes GGUF."
            )
        parse_layers(self.layers, None)
        self._check_saved_step()
        for path in [*self.outputs().values(), *([self.save_step] if self.save_step else [])]:
            if path.exists() and not self.overwrite:
                raise InputError(f"{path} exists; choose another name or add --overwrite.")

    def _check_saved_step(self) -> None:
        if self.save_step and not (self.moves_weights and (self.adapter or self.space == "lora")):
            raise InputError(
                "--save-step needs --method step or both, and --space lora: it saves a step of an adapter."
            )
        if self.save_step and self.save_step == self.adapter:
            raise InputError(f"--save-step {self.save_step} is the adapter that the step starts from; choose another.")


@dataclass(frozen=True)
class Eval(ModelFlags):
    """Measure what a vector does on held-out data: dose by dose and at a fixed KL, or layer by layer."""

    vector: Positional[Path]
    """.safetensors, .gguf or .pt file"""
    data: Positional[Path]
    """labelled file of rows that the vector was not made from"""
    layer: PositiveInt | None = None
    """layer to steer at; default the middle one of the vector's"""
    layers: str = ""
    """compare several layers at --kl: all (of the vector's), or such as 4,8-12; half of the rows choose the best, the
    other half say what it is worth"""
    judge: Literal["auto", "answers", "continuations"] = "auto"
    """what is compared: answers (logits after a prompt), continuations (likelihood of the texts), or auto, which takes
    continuations where the prompt asks nothing or the answers are of several words"""
    random: NonNegativeInt = 8
    """random directions of the same KL that the effect stands beside"""
    doses: str = ""
    """multiples of the stored vector, comma separated (--doses=-1,1 when the first is negative); default multiples of
    the dose at --kl"""
    kl: PositiveFloat = 0.05
    """KL on neutral text at which the effect is given, nats per token"""
    where: Literal["all", "answer"] = "all"
    """add at every token, or from the last one of the prompt on"""
    neutral: PositiveInt = NEUTRAL_ROWS
    """rows of neutral text"""
    no_collateral: bool = False
    """leave out the accuracy of other tasks"""
    no_chat: bool = False
    """write prompts as plain text although the vector was made with a chat template"""

    def dose_values(self) -> tuple[float, ...]:
        """Parse --doses: multiples of the stored vector; empty without the flag."""
        try:
            return tuple(float(part) for part in self.doses.split(",") if part.strip())
        except ValueError:
            raise InputError(f"--doses {self.doses!r}: give numbers, comma separated, such as -1,1,2.") from None

    def check(self) -> None:
        """Refuse what can be known to be wrong before a model is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        from lineament.problems.neutral_text import NEUTRAL_TEXTS

        self.check_model()
        if self.layers:
            parse_layers(self.layers, None)
            if self.layer is not None or self.doses:
                raise InputError("--layers compares layers at one KL; leave --layer and --doses out.")
        if not all(abs(dose) <= MAX_FLOAT32 for dose in self.dose_values()):
            raise InputError(f"--doses must be finite numbers; got {self.doses}.")
        if not 1 <= self.neutral <= len(NEUTRAL_TEXTS):
            raise InputError(f"--neutral must be from 1 to {len(NEUTRAL_TEXTS)} rows; got {self.neutral}.")


@dataclass(frozen=True)
class Generate(ModelFlags):
    """Generate text with and without the vector, side by side."""

    vector: Positional[Path]
    """.safetensors, .gguf or .pt file"""
    prompts: Positional[tuple[str, ...]] = ()
    """one or more prompts"""
    file: Path | None = None
    """text file with a prompt per line"""
    coefficient: AnyFloat | None = None
    """multiple of the stored vector; default 1"""
    kl: PositiveFloat | None = None
    """find the coefficient whose KL on neutral text is this, nats per token, in place of --coefficient"""
    layer: PositiveInt | None = None
    """layer to steer at; default all of the vector's, together"""
    layers: str = ""
    """several layers to steer at together, such as 8-16"""
    where: Literal["all", "answer"] = "all"
    """add at every token, or from the last one of the prompt on"""
    tokens: PositiveInt = 40
    """maximum number of new tokens"""
    temperature: NonNegativeFloat = 0.0
    """0 takes the most likely token"""
    no_chat: bool = False
    """write prompts as plain text although the vector was made with a chat template"""

    def check(self) -> None:
        """Refuse what can be known to be wrong before a model is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        self.check_model()
        if self.kl is not None and self.coefficient is not None:
            raise InputError("--kl finds the coefficient; leave --coefficient out, or --kl.")
        if self.layers:
            parse_layers(self.layers, None)
            if self.layer is not None:
                raise InputError("--layer and --layers were given; give one of them.")


@dataclass(frozen=True)
class Combine:
    """Add several vectors up to one, with their lengths and cosines by layer."""

    parts: Positional[tuple[str, ...]] = ()
    """vectors and their weights, as joy.safetensors=1 formal.safetensors=-0.5"""
    out: Path = Path("combined.safetensors")
    """file of the sum"""
    orthogonal: bool = False
    """make the vectors orthogonal first, in the order given: each loses what it has along the earlier ones"""
    layers: str = "all"
    """all, which must be the same of every vector, or those to keep, such as 4,8-12"""
    unit: bool = False
    """scale the sum at every layer to norm 1"""
    overwrite: bool = False
    """replace a file that exists"""
    quiet: bool = False
    """do not say what to type next"""
    debug: bool = False
    """show tracebacks"""

    def check(self) -> None:
        """Refuse what can be known to be wrong before a file is read.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        parse_layers(self.layers, None)
        if self.out.suffix != ".safetensors":
            raise InputError(
                f"--out must be a .safetensors file; got {self.out}. `lineament steer export` writes GGUF."
            )
        if self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out} exists; choose another name or add --overwrite.")


@dataclass(frozen=True)
class Export:
    """Write a vector as a GGUF control vector for llama.cpp and repeng."""

    vector: Positional[Path]
    """vector file"""
    out: Positional[Path]
    """.gguf file"""
    model_type: str = ""
    """what transformers calls the architecture (model_type in config.json); default the vector's"""
    skip_first: bool = False
    """leave out layer 1, where llama.cpp can add nothing"""
    overwrite: bool = False
    """replace a file that exists"""
    debug: bool = False
    """show tracebacks"""


@dataclass(frozen=True)
class Import:
    """Write the control vector of another tool as a vector file of Lineament."""

    file: Positional[Path]
    """.gguf or .pt file"""
    out: Positional[Path]
    """.safetensors file"""
    layer: PositiveInt | None = None
    """layer of a .pt file that holds one tensor, from 1"""
    model: str = ""
    """name of the model that it belongs to, if known"""
    overwrite: bool = False
    """replace a file that exists"""
    debug: bool = False
    """show tracebacks"""


ACTIONS = {
    "make": Make,
    "eval": Eval,
    "generate": Generate,
    "combine": Combine,
    "export": Export,
    "import": Import,
}


def parse_layers(text: str, n_layers: int | None) -> tuple[int, ...]:
    """Parse `all`, or numbers and ranges such as `4,8-12`, to ascending layers.

    Args:
        n_layers: None to check the form alone.
    """
    if text == "all":
        return tuple(range(1, (n_layers or 1) + 1))
    layers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = _layer_number(low), _layer_number(high if dash else low)
        if first is None or last is None or last < first:
            raise InputError(f"--layers {text!r}: give `all`, or numbers and ranges such as 4,8-12.")
        layers |= set(range(first, last + 1))
    if not layers or min(layers) < 1 or (n_layers and max(layers) > n_layers):
        allowed = f"1 to {n_layers}" if n_layers else "from 1 on"
        raise InputError(f"--layers {text!r}: layers of this model are {allowed}.")
    return tuple(sorted(layers))


def _layer_number(text: str) -> int | None:
    """Return a layer, or None for text that is none; no model has more than MAX_LAYERS."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LAYERS)) else None
