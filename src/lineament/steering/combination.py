"""Several steering vectors as one: their weighted sum by layer, as they are or made orthogonal to each other first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.files.reading import shown
from lineament.settings.words import ranges
from lineament.steering.directions import cosine
from lineament.steering.vector import SteeringVector, VectorTags

# Of a direction made orthogonal to others so much of its length must be left; below it is what rounding left.
LEAST_LEFT = 1e-3
# What every part must agree in where it is known, with what it is called.
MUST_AGREE = (("model_hash", "weights of the model"), ("n_layers", "number of the model's layers"), ("site", "site"))


@dataclass(frozen=True)
class Combined:
    """A sum of vectors.

    Attributes:
        vector: the sum; its tags keep what all parts agree in and the hashes of every part's rows.
        cosines: layer -> (n_parts, n_parts) float64, between the parts as they were given.
        left: layer -> (n_parts,) float64, length of each part in the sum over its length as given; 1 unless orthogonal.
        lengths: layer -> (n_parts,) float64, length of each part as it enters the sum, weight included.
    """

    vector: SteeringVector
    cosines: Mapping[int, Float64[Tensor, "n_parts n_parts"]]
    left: Mapping[int, Float64[Tensor, " n_parts"]]
    lengths: Mapping[int, Float64[Tensor, " n_parts"]]


def combine_vectors(
    parts: Mapping[str, SteeringVector], weights: Sequence[float], *, orthogonal: bool = False
) -> Combined:
    """Add vectors up, layer by layer: the sum over parts of weight times direction.

    Args:
        parts: name -> vector, of one model and all of the same layers.
        weights: (n_parts,) finite, not all zero.
        orthogonal: make the directions of each layer orthogonal first, by Gram-Schmidt in the order of `parts`: the
            first stays as it is, every later one loses what it has along the earlier ones and is not scaled up again.

    Raises:
        InputError: fewer than two parts, other models, widths, sites or layers, weights that are not finite or all 0,
            a part that is zero, one that others hold already where they are to be orthogonal, or a sum that is zero.
    """
    _require_weights(len(parts), weights)
    _require_alike(parts)
    names, vectors = list(parts), list(parts.values())
    scale = torch.tensor(list(weights), dtype=torch.float64)
    made, cosines, left, lengths = {}, {}, {}, {}
    for layer in vectors[0].layers:
        given = torch.stack([vector.directions[layer].double() for vector in vectors])
        _require_length(given, names, layer)
        cosines[layer] = cosine(given[:, None], given[None])
        used = _orthogonal(given, names, layer) if orthogonal else given
        left[layer] = used.norm(dim=1) / given.norm(dim=1)
        lengths[layer] = used.norm(dim=1) * scale.abs()
        made[layer] = (scale[:, None] * used).sum(dim=0).float()
        if not made[layer].norm() > LEAST_LEFT * lengths[layer].max():
            raise InputError(f"at layer {layer} the parts cancel each other; choose other weights.")
    tags = _tags([vector.tags for vector in vectors], _in_words(names, weights, orthogonal))
    return Combined(SteeringVector(made, tags), cosines, left, lengths)


def _require_weights(n_parts: int, weights: Sequence[float]) -> None:
    if n_parts < 2 or len(weights) != n_parts:
        raise InputError(f"{n_parts} vectors and {len(weights)} weights were given; give two or more, each a weight.")
    if not torch.isfinite(torch.tensor(list(weights), dtype=torch.float32)).all() or not any(weights):
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise InputError(f"the weights are {listed}; they must be finite in float32, and not all 0.")


def _require_alike(parts: Mapping[str, SteeringVector]) -> None:
    """Refuse parts of different models, sites or layers, naming the two that differ."""
    (first, one), *rest = parts.items()
    for name, other in rest:
        if other.width != one.width:
            raise InputError(f"{first} has width {one.width} and {name} {other.width}: they are of different models.")
        for tag, words in MUST_AGREE:
            known = [value for value in (getattr(one.tags, tag), getattr(other.tags, tag)) if value]
            if len(set(known)) > 1:
                raise InputError(
                    f"{first} and {name} differ in the {words}: {shown(known[0])} and {shown(known[1])}. Only vectors "
                    "of one model and one place can be added up."
                )
        if other.layers != one.layers:
            common = sorted(set(one.layers) & set(other.layers))
            way = f"keep layers that both have ({ranges(common)})" if common else "make them at the same layers"
            raise InputError(f"{first} has layers {ranges(one.layers)} and {name} {ranges(other.layers)}; {way}.")


def _require_length(given: Tensor, names: Sequence[str], layer: int) -> None:
    for name, direction in zip(names, given, strict=True):
        if not 0 < float(direction.norm()) < float("inf"):
            raise InputError(f"{name} is zero at layer {layer}, or too long to be of use; it cannot be combined.")


def _orthogonal(given: Tensor, names: Sequence[str], layer: int) -> Tensor:
    """Take from every direction what it has along the earlier ones; float64 keeps this exact down to LEAST_LEFT."""
    kept: list[Tensor] = []
    for name, direction in zip(names, given, strict=True):
        rest = direction
        for earlier in kept:
            rest = rest - (rest @ earlier) / (earlier @ earlier) * earlier
        if not rest.norm() > LEAST_LEFT * direction.norm():
            earlier_names = ", ".join(names[: len(kept)])
            raise InputError(
                f"at layer {layer} nothing of {name} is left when it is made orthogonal to {earlier_names}: they hold "
                "its direction already. Leave it out, or combine without making orthogonal."
            )
        kept.append(rest)
    return torch.stack(kept)


def _tags(tags: Sequence[VectorTags], made_of: str) -> VectorTags:
    """Keep what all parts agree in, and say of what the sum is made; held-out rows must be new to every part."""
    common: dict[str, Any] = {}
    for item in fields(VectorTags):
        values = [getattr(one, item.name) for one in tags]
        known = [value for value in values if value] if item.name in dict(MUST_AGREE) else values
        common[item.name] = known[0] if known and all(value == known[0] for value in known) else item.default
    alike = len({one.position for one in tags}) == 1
    return replace(
        VectorTags(**common),
        method="combination",
        made_of=made_of,
        position=tags[0].position if alike else "various",
        normalisation="none",
        data_hash="",
        n_examples=sum(one.n_examples for one in tags),
        row_hashes=tuple(sorted({short for one in tags for short in one.row_hashes})),
    )


def _in_words(names: Sequence[str], weights: Sequence[float], orthogonal: bool) -> str:
    listed = " ".join(f"{weight:+g} {name}" for name, weight in zip(names, weights, strict=True))
    return f"{listed}{', made orthogonal in this order' if orthogonal else ''}"
