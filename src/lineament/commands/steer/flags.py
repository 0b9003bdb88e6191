"""`lineament steer`: the flags of its five actions, and their dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from lineament.commands.steer.source import Source


@dataclass(frozen=True, kw_only=True)
class OnModel:
    """Which model, and how it is run."""

    model: str = "smollm2-135m"
    """smollm2-135m, a local folder, a .gguf file or a hub name"""
    adapter: Path | None = None
    """PEFT adapter folder that is part of the model"""
    seed: int = 0
    """of a fresh adapter, and of sampling"""
    threads: int = 2
    """torch threads"""
    device: str = "auto"
    """auto, cpu or cuda"""
    template: str = ""
    """prompt of a statement, e.g. "{statement}" for the bare text; default "{statement} Answer:", whose answer is
    " True" or " False", or what the vector was made with"""
    debug: bool = False
    """show tracebacks"""

    def source(self, space: str = "full") -> Source:
        """As the tools take it."""
        from lineament.commands.steer.source import Source

        return Source(self.model, self.adapter, space, self.seed, self.threads, self.device, self.template)


@dataclass(frozen=True)
class Make(OnModel):
    """From labelled data, or an adapter, to a steering vector.

    Data are statements with a label, or questions with a matching and a not-matching answer (JSONL, JSON, CSV).
    """

    data: tyro.conf.Positional[Path]
    """labelled file"""
    out: Path = Path("vector.safetensors")
    """file of the vector; with --method both, the step's is named OUT-step"""
    method: str = "caa"
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
    """read the mean over all tokens, instead of the last one (of statements) or the answer (of pairs)"""
    unit: bool = False
    """scale every direction to norm 1"""
    save_step: Path | None = None
    """also save the step as a PEFT adapter in this folder"""
    step_norm: float = 1.0
    """length of the saved step, in weight units"""
    overwrite: bool = False
    """replace files that exist"""


@dataclass(frozen=True)
class Eval(OnModel):
    """What a vector does to answers on held-out data: dose-response, and the effect at a fixed price."""

    vector: tyro.conf.Positional[Path]
    """.safetensors, .gguf or .pt file"""
    data: tyro.conf.Positional[Path]
    """labelled file of rows that the vector was not made from"""
    layer: int | None = None
    """layer to steer at; default the middle one of the vector's"""
    doses: str = ""
    """multiples of the stored vector, comma separated (--doses=-1,1 when the first is negative); default multiples of
    the dose at the price"""
    kl: float = 0.05
    """price on neutral text at which the effect is given, nats per token"""
    where: Literal["all", "answer"] = "all"
    """add at every token, or from the last one of the prompt on"""
    neutral: int = 32
    """rows of neutral text"""
    no_collateral: bool = False
    """leave out what other tasks lose"""


@dataclass(frozen=True)
class Generate(OnModel):
    """Text with and without the vector, side by side."""

    vector: tyro.conf.Positional[Path]
    """.safetensors, .gguf or .pt file"""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """one or more prompts"""
    file: Path | None = None
    """text file with a prompt per line"""
    coefficient: float = 1.0
    """multiple of the stored vector"""
    layer: int | None = None
    """layer to steer at; default all of the vector's"""
    where: Literal["all", "answer"] = "all"
    """add at every token, or from the last one of the prompt on"""
    tokens: int = 40
    """most new tokens"""
    temperature: float = 0.0
    """0 takes the likeliest token"""
    chat: bool = False
    """wrap prompts in the model's chat template"""


@dataclass(frozen=True)
class Export:
    """A vector as a GGUF control vector for llama.cpp and repeng."""

    vector: tyro.conf.Positional[Path]
    """vector file"""
    out: tyro.conf.Positional[Path]
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
    """A control vector of another tool as a vector file of ours."""

    file: tyro.conf.Positional[Path]
    """.gguf or .pt file"""
    out: tyro.conf.Positional[Path]
    """.safetensors file"""
    layer: int | None = None
    """layer of a .pt file that holds one tensor, from 1"""
    model: str = ""
    """name of the model that it belongs to, if known"""
    overwrite: bool = False
    """replace a file that exists"""
    debug: bool = False
    """show tracebacks"""


ACTIONS = {"make": Make, "eval": Eval, "generate": Generate, "export": Export, "import": Import}
Action = (
    Annotated[Make, tyro.conf.subcommand("make", prefix_name=False)]
    | Annotated[Eval, tyro.conf.subcommand("eval", prefix_name=False)]
    | Annotated[Generate, tyro.conf.subcommand("generate", prefix_name=False)]
    | Annotated[Export, tyro.conf.subcommand("export", prefix_name=False)]
    | Annotated[Import, tyro.conf.subcommand("import", prefix_name=False)]
)


@dataclass(frozen=True)
class Steer:
    """Steering vectors: make them from data, a weight step or an adapter, measure them, use them, exchange them."""

    action: tyro.conf.OmitArgPrefixes[Action]

    @property
    def debug(self) -> bool:
        """Whether tracebacks are wanted."""
        return self.action.debug


def run(command: Steer) -> int:
    """Carry out one action; returns the exit code."""
    from lineament.commands.inspect import console

    match command.action:
        case Make() as a:
            from lineament.commands.steer.make import MakeRequest, make

            same = (
                "data",
                "out",
                "method",
                "step",
                "layers",
                "site",
                "mean",
                "unit",
                "save_step",
                "step_norm",
                "overwrite",
            )
            # Only a step needs an adapter to move.
            space = a.space if a.method in ("step", "both") else "full"
            return make(MakeRequest(source=a.source(space), **{name: getattr(a, name) for name in same}), console)
        case Eval() as a:
            from lineament.commands.steer.evaluate import EvalRequest, evaluate

            doses = _doses(a.doses)
            collateral, source = not a.no_collateral, a.source()
            request = EvalRequest(
                a.vector, a.data, source, a.layer, doses, a.kl, a.where, a.neutral, collateral=collateral
            )
            return evaluate(request, console)
        case Generate() as a:
            from lineament.commands.steer.generate import GenerateRequest, generate

            names = ("vector", "prompts", "file", "coefficient", "layer", "where", "tokens", "temperature", "chat")
            return generate(GenerateRequest(source=a.source(), **{name: getattr(a, name) for name in names}), console)
        case Export() as a:
            from lineament.commands.steer.convert import ExportRequest, export_vector

            return export_vector(ExportRequest(a.vector, a.out, a.model_type, a.skip_first, a.overwrite), console)
        case Import() as a:
            from lineament.commands.steer.convert import ImportRequest, import_vector

            return import_vector(ImportRequest(a.file, a.out, a.layer, a.model, a.overwrite), console)


def _doses(text: str) -> tuple[float, ...]:
    from lineament.errors import InputError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"--doses {text!r}: give numbers, comma separated, such as -1,1,2.") from None
