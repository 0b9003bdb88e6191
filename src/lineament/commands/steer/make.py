"""`lineament steer make`: labelled data, or an adapter, to a steering vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lineament.activations.blocks import Site
from lineament.activations.capture import Place, group_sums, hash_rows, layers_up_to, problem_reader, read_rows
from lineament.activations.packed import read_answers
from lineament.commands.steer.source import Source, SteeredModel, row_hashes
from lineament.errors import InputError, unknown_name
from lineament.problems.adapters import save_adapter
from lineament.problems.encoding import PROMPT
from lineament.problems.labelled_data import LabelledData, read_contrast
from lineament.problems.problem import Batch
from lineament.steering.contrast import Contrast, folds_of
from lineament.steering.directions import LEAST_AGREEMENT, caa, cosine, pca_of_differences, probe_direction
from lineament.steering.vector import Position, SteeringVector, VectorTags, save_vector
from lineament.steering.weight_step import StepKind, jacobian_shift, step_direction
from lineament.vectors.gradients import mean_gradient

METHODS = ("caa", "pca", "probe", "step", "both", "adapter")
MOST_LAYERS = 9999


@dataclass(frozen=True)
class MakeRequest:
    """What the user asked for.

    Attributes:
        layers: `all`, or numbers and ranges such as `4,8-12`. mean: read the mean over tokens, not the last or the
            answer.
        save_step: folder for the step as a PEFT adapter. step_norm: its length in weight space.
    """

    data: Path
    out: Path
    source: Source
    method: str = "caa"
    step: StepKind = "raw"
    layers: str = "all"
    site: Site = "block"
    mean: bool = False
    unit: bool = False
    save_step: Path | None = None
    step_norm: float = 1.0
    overwrite: bool = False


def check(request: MakeRequest) -> None:
    """Refuse what can be known to be wrong before a model is loaded."""
    if request.method not in METHODS:
        raise unknown_name("method", request.method, METHODS)
    if request.step not in get_args(StepKind):
        raise unknown_name("step", request.step, get_args(StepKind))
    if request.method == "adapter" and request.source.adapter is None:
        raise InputError("--method adapter needs --adapter: the folder whose effect becomes a vector.")
    moved = request.method in ("step", "both")
    if request.save_step and not (moved and (request.source.adapter or request.source.space == "lora")):
        raise InputError("--save-step needs --method step or both, and --space lora: a step of an adapter.")
    if not request.step_norm > 0:
        raise InputError(f"--step-norm {request.step_norm}: it must be above 0.")
    if request.out.suffix != ".safetensors":
        raise InputError(f"--out {request.out}: a vector is a .safetensors file; `steer export` writes GGUF.")
    if request.save_step and request.save_step == request.source.adapter:
        raise InputError(f"--save-step {request.save_step} is the adapter that the step starts from; choose another.")
    written = [*_outputs(request).values(), *([request.save_step] if request.save_step else [])]
    for path in written:
        if path.exists() and not request.overwrite:
            raise InputError(f"{path} exists; choose another name or add --overwrite.")


def make(request: MakeRequest, console: Console) -> int:
    """Make the vector(s), print what they are like by layer, and write them."""
    check(request)
    data = read_contrast(request.data)
    parse_layers(request.layers, None)
    loaded = SteeredModel(request.source)
    place = Place(parse_layers(request.layers, len(loaded.blocks)), request.site, request.mean)
    contrast = loaded.contrast(data.items)
    _require_halves(request, contrast)
    made, stepped = _make(request, loaded, contrast, place)
    agreement = _agreement(made)
    vectors = {name: _tagged(request, loaded, data, contrast, name, found.whole) for name, found in made.items()}
    if request.unit:
        vectors = {name: vector.unit() for name, vector in vectors.items()}
    # Nothing is written before everything is made.
    for name, path in _outputs(request).items():
        save_vector(vectors[name], path)
    if request.save_step and stepped is not None:
        save_adapter(loaded.problem.parameters, stepped, request.save_step)
    _print(console, request, loaded, vectors, agreement)
    return 0


def _require_halves(request: MakeRequest, contrast: Contrast) -> None:
    """Halves of each class are compared; a step takes half of the rows, in two parts, and is read on the other."""
    n, total = int(contrast.positive.sum()), len(contrast.positive)
    fewest = 4 if request.method in ("step", "both") else 2
    if min(n, total - n) < fewest:
        raise InputError(
            f"{n} positive and {total - n} negative examples; --method {request.method} needs at least {fewest} of "
            "each, so that parts of the data can be compared."
        )


@dataclass(frozen=True)
class _Made:
    """Layer -> (width,), from all data and from each of two halves of them."""

    whole: Mapping[int, Tensor]
    halves: tuple[Mapping[int, Tensor], Mapping[int, Tensor]]


def _make(
    request: MakeRequest, loaded: SteeredModel, contrast: Contrast, place: Place
) -> tuple[dict[str, _Made], Tensor | None]:
    """The vectors by name, and theta after the step, if one was made."""
    found: dict[str, _Made] = {}
    stepped = None
    if request.method in ("caa", "pca", "probe", "both"):
        name = "caa" if request.method == "both" else request.method
        found[name] = _contrast_vector(name, loaded, contrast, place)
    if request.method in ("step", "both"):
        found["step"], direction = _step_vector(request, loaded, contrast, place)
        stepped = loaded.problem.parameters.read(torch.float64).cpu() + request.step_norm * direction
    if request.method == "adapter":
        found["adapter"] = _adapter_vector(loaded, contrast, place)
    return found, stepped


def _contrast_vector(name: str, loaded: SteeredModel, contrast: Contrast, place: Place) -> _Made:
    if name == "caa" and contrast.kind == "statement":
        return _running_caa(loaded, contrast, place)
    positive, negative = _activations(loaded, contrast, place)
    ways = {"caa": caa, "pca": pca_of_differences, "probe": probe_direction}

    def by_layer(plus: Tensor, minus: Tensor) -> dict[int, Tensor]:
        return {layer: ways[name](plus[:, i], minus[:, i]) for i, layer in enumerate(place.layers)}

    first, second = (by_layer(positive[half::2], negative[half::2]) for half in (0, 1))
    return _Made(by_layer(positive, negative), (first, second))


def _running_caa(loaded: SteeredModel, contrast: Contrast, place: Place) -> _Made:
    """From running sums of four groups, both classes of both halves: memory does not grow with the data."""
    groups = folds_of(contrast.positive, 2) + 2 * contrast.positive
    found = group_sums(problem_reader(loaded.problem, place), contrast.rows, groups, 4)
    means = found.means()
    sums, counts = found.sums.view(2, 2, *found.sums.shape[1:]).sum(dim=1), found.counts.view(2, 2).sum(dim=1)
    whole = sums[1] / counts[1] - sums[0] / counts[0]
    first, second = (_by_layer(place, means[2 + half] - means[half]) for half in (0, 1))
    return _Made(_by_layer(place, whole), (first, second))


def _activations(loaded: SteeredModel, contrast: Contrast, place: Place) -> tuple[Tensor, Tensor]:
    """(n, n_layers, width) of both classes; the prompt that two answers share is computed once where that works."""
    if contrast.kind == "answer" and not place.mean:
        n = len(contrast.prompts)
        last = contrast.rows.input_ids.gather(1, contrast.rows.positions)[:, 0]
        answers = torch.stack([last[:n], last[n:]], dim=1)
        found, _ = read_answers(loaded.model, contrast.prompts, answers, place, loaded.problem.device)
        return found[:, 0], found[:, 1]
    rows = read_rows(problem_reader(loaded.problem, place), contrast.rows)
    return rows[contrast.positive], rows[~contrast.positive]


def _step_vector(request: MakeRequest, loaded: SteeredModel, contrast: Contrast, place: Place) -> tuple[_Made, Tensor]:
    """The shift of one step, read on the half of the prompts that did not make it, and the step's direction.

    Two parts of the other half make a gradient each: how well their shifts agree is how well the data decide the step.
    """
    problem, fold = loaded.problem, torch.empty(len(contrast.prompts), dtype=torch.long)
    fold[torch.argsort(_prompt_classes(contrast).int(), stable=True)] = torch.arange(len(fold)) % 4
    towards = contrast.towards()
    parts = [mean_gradient(problem, towards.rows(_balanced(contrast, fold == part))) for part in (0, 1)]
    # Of pairs, both answers to every prompt of the other half.
    rows = contrast.read.rows((fold >= 2).repeat(len(contrast.read) // len(fold)).nonzero()[:, 0])
    together = torch.zeros(len(rows), dtype=torch.long)

    def shift(gradient: Tensor) -> dict[int, Tensor]:
        direction = step_direction(gradient, request.step)
        return _by_layer(place, jacobian_shift(problem, direction, rows, place, together, 1).means()[0])

    whole = parts[0] + parts[1]
    return _Made(shift(whole), (shift(parts[0]), shift(parts[1]))), step_direction(whole, request.step)


def _prompt_classes(contrast: Contrast) -> Tensor:
    """(n_prompts,) class of each prompt; of pairs, which all have both answers, whether the target is the lowest."""
    targets = contrast.prompts.targets[:, -1]
    return targets == (contrast.labels if contrast.kind == "statement" else targets.min())


def _balanced(contrast: Contrast, chosen: Tensor) -> Tensor:
    """Indices of the chosen prompts, as many of the positive label as of others; pairs are balanced as they are."""
    if contrast.kind == "answer":
        return chosen.nonzero()[:, 0]
    positive = _prompt_classes(contrast)
    plus, minus = ((chosen & of_class).nonzero()[:, 0] for of_class in (positive, ~positive))
    n = min(len(plus), len(minus))
    return torch.cat([plus[:n], minus[:n]])


def _adapter_vector(loaded: SteeredModel, contrast: Contrast, place: Place) -> _Made:
    """Mean shift that the adapter itself makes on the prompts."""
    reader = problem_reader(loaded.problem, place)
    rows, groups = contrast.read, folds_of(contrast.read_positive, 2)
    after = group_sums(reader, rows, groups, 2)
    with loaded.model.disable_adapter():
        before = group_sums(reader, rows, groups, 2)
    moved = after.sums - before.sums
    whole = moved.sum(dim=0) / after.counts.sum()
    parts = moved / after.counts[:, None, None]
    return _Made(_by_layer(place, whole), (_by_layer(place, parts[0]), _by_layer(place, parts[1])))


def _by_layer(place: Place, found: Tensor) -> dict[int, Tensor]:
    return dict(zip(place.layers, found, strict=True))


def _agreement(made: Mapping[str, _Made]) -> dict[str, dict[int, float]]:
    return {
        name: {layer: float(cosine(found.halves[0][layer], found.halves[1][layer])) for layer in found.whole}
        for name, found in made.items()
    }


def _tagged(
    request: MakeRequest,
    loaded: SteeredModel,
    data: LabelledData,
    contrast: Contrast,
    name: str,
    directions: Mapping[int, Tensor],
) -> SteeringVector:
    position: Position = "mean" if request.mean else "answer" if contrast.kind == "answer" else "last"
    tags = VectorTags(
        model=request.source.model,
        # What an adapter does is added to the model without it.
        model_hash=loaded.weights_hash(bare=name == "adapter"),
        n_layers=len(loaded.blocks),
        method=f"step-{request.step}" if name == "step" else name,
        contrast=contrast.kind,
        site=request.site,
        position=position,
        data_hash=_data_hash(contrast.rows, contrast.positive),
        n_examples=len(data.items),
        template="" if contrast.kind == "answer" else request.source.template or PROMPT,
        model_type=str(getattr(loaded.config, "model_type", "")),
        row_hashes=row_hashes(data),
    )
    return SteeringVector({layer: direction.float() for layer, direction in directions.items()}, tags)


def _data_hash(rows: Batch, positive: Tensor) -> str:
    return hash_rows([rows], [positive])


def _outputs(request: MakeRequest) -> dict[str, Path]:
    """Name of each vector -> its file; of two, the step's is named beside the other's."""
    if request.method != "both":
        return {request.method: request.out}
    return {"caa": request.out, "step": request.out.with_name(f"{request.out.stem}-step.safetensors")}


def parse_layers(text: str, n_layers: int | None) -> tuple[int, ...]:
    """`all`, or numbers and ranges such as `4,8-12`, as ascending layers.

    Args:
        n_layers: None to check the form alone.
    """
    if text == "all":
        return layers_up_to(n_layers or 1)
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = _layer_number(low), _layer_number(high if dash else low)
        if first is None or last is None or last < first:
            raise InputError(f"--layers {text!r}: give `all`, or numbers and ranges such as 4,8-12.")
        found |= set(range(first, last + 1))
    if not found or min(found) < 1 or (n_layers and max(found) > n_layers):
        allowed = f"1 to {n_layers}" if n_layers else "from 1 on"
        raise InputError(f"--layers {text!r}: layers of this model are {allowed}.")
    return tuple(sorted(found))


def _layer_number(text: str) -> int | None:
    """A layer, or None for what is none; no model has more than MOST_LAYERS."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST_LAYERS)) else None


def _print(
    console: Console,
    request: MakeRequest,
    loaded: SteeredModel,
    vectors: Mapping[str, SteeringVector],
    agreement: Mapping[str, Mapping[int, float]],
) -> None:
    first = next(iter(vectors.values()))
    tags = replace(first.tags, row_hashes=())
    console.print(
        f"[bold]{request.source.model}[/], {tags.contrast} contrast of {tags.n_examples} rows of {request.data.name}, "
        f"read at {tags.site} output, {tags.position} token",
    )
    columns = [column for name in vectors for column in (f"|{name}|", "halves agree")]
    both = len(vectors) == 2
    table = Table("layer", *columns, *(["cosine"] if both else []), box=SIMPLE_HEAD)
    for layer in first.layers:
        cells = []
        for name, vector in vectors.items():
            cells += [f"{float(vector.directions[layer].norm()):.3g}", f"{agreement[name][layer]:.3f}"]
        if both:
            pair = [vector.directions[layer] for vector in vectors.values()]
            cells.append(f"{float(cosine(*pair)):.2f}")
        table.add_row(str(layer), *cells)
    console.print(table)
    for name, found in agreement.items():
        weak = [layer for layer, value in found.items() if value < LEAST_AGREEMENT]
        if weak:
            console.print(
                f"{name}: halves of the data agree below {LEAST_AGREEMENT} in {len(weak)} layers; more data help."
            )
    for path in _outputs(request).values():
        console.print(f"vector: {path}", soft_wrap=True)
