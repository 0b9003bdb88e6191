"""`lineament steer make`: labelled data, or an adapter, to a steering vector."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lineament.activations.capture import Place, hash_rows
from lineament.commands.steer.flags import Make, parse_layers
from lineament.commands.steer.model import SteeredModel
from lineament.commands.steer.tokens import print_read
from lineament.commands.terminal import Step, console, say_next, steps_shown
from lineament.errors import InputError
from lineament.problems.adapters import save_adapter
from lineament.problems.encoding import prompt_of
from lineament.problems.labelled_data import LabelledData, Pair, read_contrast
from lineament.problems.stored_adapters import require_own_adapter
from lineament.steering.contrast import Contrast
from lineament.steering.directions import LEAST_AGREEMENT, cosine, require_probe
from lineament.steering.formats import require_replaceable
from lineament.steering.held_out import row_hashes
from lineament.steering.recipes import Directions, adapter_directions, contrast_directions, step_directions
from lineament.steering.vector import Position, SteeringVector, VectorTags, save_vector
from lineament.steering.weight_step import require_jacobian

# At this agreement of halves the squared length of the vector is half noise: sqrt(2 a / (1 + a)) is sqrt(1 / 2).
LEAST_DIRECTION = 1 / 3
# A coordinate with more of |v|^2 than this is named.
MOST_IN_ONE = 0.5


def make(flags: Make) -> int:
    """Make the vector(s), print what they are like by layer, and write them; return the exit code."""
    flags.check()
    if flags.method == "probe":
        require_probe()
    for path in flags.outputs().values():
        require_replaceable(path)
    if flags.save_step:
        require_own_adapter(flags.save_step)
    data = read_contrast(flags.data)
    with steps_shown(flags.quiet, 2 if flags.method == "both" else 1) as step:
        step(f"loading {flags.model}", 0)
        loaded = SteeredModel(flags, flags.moved_space)
        contrast = loaded.contrast(data.items, loaded.wording(VectorTags()))
        _require_halves(flags, contrast)
        if flags.moves_weights:
            require_jacobian(loaded.problem, contrast.read)
        place = Place(parse_layers(flags.layers, len(loaded.blocks)), flags.site, flags.mean)
        made = _make(flags, loaded, contrast, place, step)
    vectors = {
        name: SteeringVector(
            {layer: direction.float() for layer, direction in directions.whole.items()},
            _tags(flags, loaded, data, contrast, name),
        )
        for name, directions in made.by_name.items()
    }
    for vector in vectors.values():
        vector.require_finite_norms()
    if flags.unit:
        vectors = {name: vector.unit() for name, vector in vectors.items()}
    # Nothing is written before everything is made.
    for name, path in flags.outputs().items():
        save_vector(vectors[name], path)
    if flags.save_step and made.stepped is not None:
        save_adapter(loaded.problem.parameters, made.stepped, flags.save_step)
    agreement = {name: directions.agreement() for name, directions in made.by_name.items()}
    _print(flags, vectors, agreement, (*data.notes, *loaded.problem.encoder.rows.notes))
    if flags.show_tokens:
        print_read(loaded, contrast, flags.mean)
    layers = next(iter(vectors.values())).layers
    say_next(flags.quiet, _next_commands(flags, layers[len(layers) // 2]))
    return 0


def _next_commands(flags: Make, layer: int) -> list[str]:
    """Return what to type next with the vector, at one of its layers."""
    own = Make.__dataclass_fields__["model"].default
    on = f" --model {shlex.quote(flags.model)}" if flags.model != own else ""
    place = shlex.quote(str(flags.out))
    return [
        f'lineament steer generate {place} "Once upon a time" --layer {layer}{on}  # text with and without it',
        f"lineament steer eval {place} HELD_OUT_FILE{on}  # its effect on rows that it was not made from",
    ]


def _require_halves(flags: Make, contrast: Contrast) -> None:
    """Refuse data that are too few to be split: halves of each class are compared, of a step's halves two parts."""
    n, total = int(contrast.positive.sum()), len(contrast.positive)
    fewest = 4 if flags.moves_weights else 2
    if min(n, total - n) < fewest:
        raise InputError(
            f"{flags.data} has {n} positive and {total - n} negative examples; --method {flags.method} needs at least "
            f"{fewest} of each, so that parts of the data can be compared."
        )


@dataclass(frozen=True)
class _Made:
    """Directions by the name of their vector, and theta after the step, if one was made."""

    by_name: Mapping[str, Directions]
    stepped: Tensor | None


def _make(flags: Make, loaded: SteeredModel, contrast: Contrast, place: Place, step_begins: Step) -> _Made:
    problem = loaded.problem
    if flags.method != "step":
        step_begins("reading activations", 1)
    match flags.method:
        case "caa" | "pca" | "probe" as method:
            return _Made({method: contrast_directions(problem, contrast, place, method)}, None)
        case "adapter":
            return _Made({"adapter": adapter_directions(problem, contrast, place)}, None)
    first = {"caa": contrast_directions(problem, contrast, place, "caa")} if flags.method == "both" else {}
    step_begins("gradient step, and what it moves", 1)
    step, direction = step_directions(problem, contrast, place, flags.step)
    stepped = problem.parameters.read(torch.float64).cpu() + flags.step_norm * direction
    return _Made({**first, "step": step}, stepped)


def _tags(flags: Make, loaded: SteeredModel, data: LabelledData, contrast: Contrast, name: str) -> VectorTags:
    position: Position = "mean" if flags.mean else "answer" if contrast.kind == "answer" else "last"
    return VectorTags(
        model=flags.model,
        # What an adapter does is added to the model without it.
        model_hash=loaded.weights_hash(bare=name == "adapter"),
        n_layers=len(loaded.blocks),
        method=f"step-{flags.step}" if name == "step" else name,
        contrast=contrast.kind,
        site=flags.site,
        position=position,
        data_hash=hash_rows([contrast.rows], [contrast.positive]),
        n_examples=len(data.items),
        template="" if contrast.kind == "answer" else flags.template or prompt_of(flags.chat),
        chat=flags.chat or _talks(loaded, data),
        model_type=str(getattr(loaded.config, "model_type", "")),
        row_hashes=row_hashes(data),
    )


def _talks(loaded: SteeredModel, data: LabelledData) -> bool:
    """Whether the data are conversations, which are written with a chat template wherever there is one."""
    talk = any(isinstance(item, Pair) and item.turns for item in data.items)
    return talk and bool(loaded.problem.tokenizer.chat_template)


def _print(
    flags: Make,
    vectors: Mapping[str, SteeringVector],
    agreement: Mapping[str, Mapping[int, float]],
    notes: Sequence[str],
) -> None:
    first = next(iter(vectors.values()))
    tags = replace(first.tags, row_hashes=())
    what = f", {tags.contrast} contrast of {tags.n_examples} rows of {flags.data.name}"
    console.print(Text.assemble((flags.model, "bold"), f"{what}, read at {tags.site} output, {tags.position} token"))
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
    for name, by_layer in agreement.items():
        for text in (*agreement_texts(name, by_layer), *_narrow_texts(name, vectors[name])):
            console.print(text)
    for note in notes:
        console.print(f"note: {note}.")
    for path in flags.outputs().values():
        console.print(f"vector: {path}", soft_wrap=True)


def _narrow_texts(name: str, vector: SteeringVector) -> Iterator[str]:
    """Name the layers where one coordinate is most of the vector: often one that is large in every text."""
    shares = {layer: d.square().max() / d.square().sum() for layer, d in vector.directions.items()}
    where = [layer for layer, share in shares.items() if share > MOST_IN_ONE]
    if where:
        yield (
            f"{name}: one coordinate holds more than half of |v|^2 ({len(where)} of {len(shares)} layers: {where[0]} "
            f"to {where[-1]}); halves can agree on it although it says nothing of the classes, such as lengths of rows."
        )


def agreement_texts(name: str, agreement: Mapping[int, float]) -> Iterator[str]:
    """Say what an agreement of halves below that of a reference means, by how far it is below."""
    layers: dict[str, list[int]] = {}
    for layer, value in agreement.items():
        layers.setdefault(_meaning(value), []).append(layer)
    for meaning, where in layers.items():
        if meaning:
            yield f"{name}: {meaning} ({len(where)} of {len(agreement)} layers: {where[0]} to {where[-1]})."


def _meaning(agreement: float) -> str:
    """Return what an agreement means; empty for a reference.

    Where two halves of equal size with independent noise agree by a, the vector of all data agrees by
    sqrt(2 a / (1 + a)) with the one that endless data would give (Spearman 1910, Brown 1910).
    """
    if not math.isfinite(agreement):
        return "a half of the data gives no direction at all: its two classes are alike there"
    if agreement <= 0:
        return "halves do not point the same way, so nothing tells the vector from noise; check labels and contrast"
    if agreement < LEAST_DIRECTION:
        return f"halves agree below {LEAST_DIRECTION:.2f}, so most of the vector is noise; it needs many times the data"
    if agreement < LEAST_AGREEMENT:
        return f"halves agree below {LEAST_AGREEMENT}, so the direction is there but noisy; more data would help"
    return ""
