"""`lineament steer combine`: several steering vectors to one, with what they have in common told."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lineament.commands.steer.flags import Combine, parse_layers
from lineament.commands.terminal import console, say_next
from lineament.errors import InputError
from lineament.files.reading import shown
from lineament.steering.combination import Combined, combine_vectors
from lineament.steering.formats import read_vector, require_replaceable
from lineament.steering.vector import SteeringVector, save_vector


def combine(flags: Combine) -> int:
    """Add vectors up, print how long and how alike they are by layer, and write the sum; return the exit code."""
    weights = parse_sum(flags.parts)
    flags.check()
    require_replaceable(flags.out)
    paths, names = list(weights), _names(list(weights))
    parts = {name: _kept(read_vector(path), flags.layers) for name, path in zip(names, paths, strict=True)}
    made = combine_vectors(parts, list(weights.values()), orthogonal=flags.orthogonal)
    vector = made.vector.unit() if flags.unit else made.vector
    vector.require_finite_norms()
    save_vector(vector, flags.out)
    _print(flags, made, vector, parts)
    place = shlex.quote(str(flags.out))
    say_next(flags.quiet, [f'lineament steer generate {place} "Once upon a time"  # text with and without it'])
    return 0


def parse_sum(words: Sequence[str]) -> dict[Path, float]:
    """Parse words such as `joy.safetensors=1` to weights by file, in the order in which they were given.

    Raises:
        InputError: fewer than two, another form, a file twice, or a weight that is no number.
    """
    weights: dict[Path, float] = {}
    for word in words:
        name, sign, number = word.rpartition("=")
        try:
            weight = float(number) if sign and name else None
        except ValueError:
            weight = None
        if weight is None:
            raise InputError(f"{shown(word)} is no part of a sum; give FILE=WEIGHT, as joy.safetensors=1.")
        if Path(name) in weights:
            raise InputError(f"{name} is given twice; give it one weight.")
        weights[Path(name)] = weight
    if len(weights) < 2:
        raise InputError("give two or more vectors, each as FILE=WEIGHT: joy.safetensors=1 formal.safetensors=-0.5.")
    return weights


def _names(paths: Sequence[Path]) -> list[str]:
    """Name files by their stem, or by their path where two have the same."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _kept(vector: SteeringVector, layers: str) -> SteeringVector:
    return vector if layers == "all" else vector.only(*parse_layers(layers, None))


def _print(flags: Combine, made: Combined, vector: SteeringVector, parts: Mapping[str, SteeringVector]) -> None:
    tags, names = vector.tags, list(parts)
    of = f" of {tags.model}" if tags.model else ""
    console.print(f"{tags.made_of}: {len(vector.layers)} layer(s){of}")
    console.print(_table(made, vector, names, flags.orthogonal))
    console.print("cosine: between the vectors as they were given. Lengths: weight included.")
    if flags.orthogonal:
        console.print(f"Made orthogonal in the order {', '.join(names)}: each loses what it has along the earlier ones")
        console.print("and is not scaled up again; % is the share of its length that is left.")
    if unknown := [name for name, part in parts.items() if not part.tags.row_hashes]:
        console.print(
            f"Not said of what it was made: {', '.join(unknown)}. Whether held-out rows are new to the sum can"
        )
        console.print("be checked for the other parts alone.")
    if len({part.tags.chat for part in parts.values()}) > 1:
        console.print("Made with a chat template and without one: prompts will be plain unless --chat is given.")
    if len({part.tags.template for part in parts.values()}) > 1:
        console.print("Made with different prompts: give --template when the sum is judged.")
    console.print(f"vector: {flags.out}", soft_wrap=True)


def _table(made: Combined, vector: SteeringVector, names: Sequence[str], orthogonal: bool) -> Table:
    """Tell by layer the length of each part and of the sum, and the cosine of two parts or the range of all pairs'."""
    pairs = list(itertools.combinations(range(len(names)), 2))
    said = "cosine" if len(pairs) == 1 else "cosines of pairs"
    table = Table("layer", *(f"|{name}|" for name in names), "|sum|", said, box=SIMPLE_HEAD)
    for layer in vector.layers:
        lengths, left = made.lengths[layer].tolist(), made.left[layer].tolist()
        cells = [
            f"{length:.3g}" + (f" ({share:.0%})" if orthogonal else "")
            for length, share in zip(lengths, left, strict=True)
        ]
        cosines = [float(made.cosines[layer][i, j]) for i, j in pairs]
        low, high = f"{min(cosines):.2f}", f"{max(cosines):.2f}"
        text = low if len(pairs) == 1 else f"{low} to {high}"
        table.add_row(str(layer), *cells, f"{float(vector.directions[layer].norm()):.3g}", text)
    return table
