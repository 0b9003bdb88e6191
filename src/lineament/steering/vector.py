"""A steering vector: one direction per layer, with what it was made from; safetensors with JSON metadata on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from lineament.activations.blocks import Site
from lineament.errors import InputError
from lineament.files.reading import parse_json
from lineament.files.tensors import open_tensors
from lineament.files.writing import write_bytes

SCHEMA = 1
METADATA_KEY = "lineament_steering_vector"
Position = Literal["last", "answer", "mean", "various"]
Normalisation = Literal["none", "unit"]


@dataclass(frozen=True)
class VectorTags:
    """What a vector was made from; empty or 0 where that is not known, as in a file from elsewhere.

    Attributes:
        model: name of the model. model_hash: hash over its weights, adapter included.
        n_layers: blocks of the model.
        method: `caa`, `pca`, `probe`, `step` (shift by a weight step), `combination` (a sum of vectors), or whatever
            another tool says.
        contrast: `statement`, `answer`, or `` where there is none.
        site: output of the whole block, of its attention or of its MLP.
        position: token it was read at: last of the prompt, the answer's, or the mean over all; `various` for a sum of
            vectors that were read at different ones.
        normalisation: `none`, or `unit` (every direction has norm 1).
        data_hash: hash over the token rows and labels. n_examples: how many.
        template: how a statement became a prompt. model_type: what transformers calls the architecture.
        row_hashes: a short hash of each text it was made from, so that held-out data can be known to be new.
        chat: whether its prompts were written with the tokenizer's chat template.
        made_of: of a sum of vectors, their names and weights.
    """

    model: str = ""
    model_hash: str = ""
    n_layers: int = 0
    method: str = ""
    contrast: str = ""
    site: Site = "block"
    position: Position = "last"
    normalisation: Normalisation = "none"
    data_hash: str = ""
    n_examples: int = 0
    row_hashes: tuple[str, ...] = ()
    template: str = ""
    model_type: str = ""
    chat: bool = False
    made_of: str = ""


@dataclass(frozen=True)
class SteeringVector:
    """Directions in activation space.

    Attributes:
        directions: layer (counted from 1, the output of block l) -> (width,) float32, all of one width.

    Raises:
        InputError: no layer, a layer below 1 or above `tags.n_layers`, unequal widths, or a value that is not finite.
    """

    directions: Mapping[int, Float[Tensor, " width"]]
    tags: VectorTags = field(default_factory=VectorTags)

    def __post_init__(self) -> None:
        if not self.directions:
            raise InputError("a steering vector needs a direction for at least one layer.")
        widths = {tuple(direction.shape) for direction in self.directions.values()}
        if len(widths) > 1 or any(len(shape) != 1 for shape in widths):
            raise InputError(f"directions must be vectors of one width; given shapes: {sorted(widths)}.")
        last = self.tags.n_layers or max(self.directions)
        outside = [layer for layer in self.directions if not 1 <= layer <= last]
        if outside:
            raise InputError(f"layers {outside} do not exist; layers of this model are counted from 1 to {last}.")
        bad = [layer for layer, direction in self.directions.items() if not torch.isfinite(direction).all()]
        if bad:
            raise InputError(
                f"the directions of layers {bad} hold values that are not finite: the activations that they were made "
                "from overflow, or the file is damaged."
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers in ascending order."""
        return tuple(sorted(self.directions))

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return len(next(iter(self.directions.values())))

    @property
    def layer_activations(self) -> dict[int, Float[Tensor, " width"]]:
        """The same directions as other tools key them: block from 0 -> (width,)."""
        return {layer - 1: self.directions[layer] for layer in self.layers}

    def only(self, *layers: int) -> SteeringVector:
        """Keep some of the layers; raise `InputError` for one that the vector does not have."""
        missing = [layer for layer in layers if layer not in self.directions]
        if missing:
            raise InputError(f"the vector has no layer {missing[0]}; choose among {_listed(self.layers)}.")
        return replace(self, directions={layer: self.directions[layer] for layer in layers})

    def unit(self) -> SteeringVector:
        """Scale every direction to norm 1; raise `InputError` for one that is zero."""
        zero = [layer for layer in self.layers if not self.directions[layer].norm() > 0]
        if zero:
            raise InputError(f"the directions of layers {zero} are zero; they cannot be normalised.")
        made = {layer: direction / direction.norm() for layer, direction in self.directions.items()}
        return SteeringVector(made, replace(self.tags, normalisation="unit"))

    def require_finite_norms(self) -> None:
        """Raise `InputError` if a direction is too long to be of use; files of other tools may hold any finite one."""
        long = [layer for layer in self.layers if not torch.isfinite(self.directions[layer].float().square().sum())]
        if long:
            raise InputError(
                f"the directions of layers {long} are so large that their norm is not finite: the activations that "
                "they were made from overflow."
            )

    def require_fit(self, model: str, model_hash: str, n_layers: int, width: int) -> None:
        """Raise `InputError` unless the vector can be added to this model; both are named.

        Width and number of layers must agree where known; another hash is another model or another adapter.
        """
        if self.width != width:
            raise InputError(f"the vector has width {self.width}, but {model} has {width}: it is for another model.")
        if max(self.layers) > n_layers or (self.tags.n_layers and self.tags.n_layers != n_layers):
            n_expected = self.tags.n_layers or f"at least {max(self.layers)}"
            raise InputError(f"the vector is for a model of {n_expected} layers, but {model} has {n_layers}.")
        if self.tags.model_hash and self.tags.model_hash != model_hash:
            raise InputError(
                f"the vector was made on {self.tags.model or 'another model'} (weights {self.tags.model_hash}), but "
                f"this is {model} (weights {model_hash}). Load the model and adapter that it was made on."
            )


def save_vector(vector: SteeringVector, path: Path) -> None:
    """Write a vector as safetensors; tags go to its metadata as JSON."""
    # Copies, since safetensors refuses one tensor at two layers.
    tensors = {f"layer.{layer}": vector.directions[layer].float().cpu().contiguous().clone() for layer in vector.layers}
    write_bytes(path, save(tensors, metadata={METADATA_KEY: tags_json(vector.tags)}))


def load_vector(path: Path) -> SteeringVector:
    """Read a vector that `save_vector` wrote.

    Raises:
        InputError: the file does not exist, is no safetensors file, or holds no steering vector of this schema.
    """
    with open_tensors(path, "the vector file") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if text is None:
        raise InputError(f"{path} holds no steering vector: its metadata lacks {METADATA_KEY!r}.")
    tags = parsed_tags(path, text)
    return SteeringVector(_by_layer(path, tensors), tags)


def tags_json(tags: VectorTags) -> str:
    """Convert tags to text for the metadata of a file; `parsed_tags` reads them."""
    return json.dumps({"schema": SCHEMA, "tags": asdict(tags)}, sort_keys=True)


def parsed_tags(path: Path, text: str) -> VectorTags:
    """Parse tags that `tags_json` wrote into `path`; raise `InputError` for another schema or damaged ones."""
    try:
        body = parse_json(text, f"{path}: the description in its metadata")
        schema = body["schema"]
        tags = VectorTags(**_tuples(body["tags"])) if schema == SCHEMA else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds a damaged steering vector: {error!r}.") from None
    if tags is None:
        raise InputError(f"{path} has schema {schema}; this version reads {SCHEMA}.")
    _require_allowed(path, tags)
    return tags


def _tuples(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Convert lists to tuples: JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in tags.items()}


def _require_allowed(path: Path, tags: VectorTags) -> None:
    for known in fields(tags):
        value = getattr(tags, known.name)
        texts = not isinstance(value, tuple) or all(isinstance(part, str) for part in value)
        if type(value) is not type(known.default) or not texts:
            raise InputError(f"{path} holds a damaged steering vector: its {known.name} is {value!r}.")
    for name, allowed in (("site", Site), ("position", Position), ("normalisation", Normalisation)):
        if getattr(tags, name) not in get_args(allowed):
            raise InputError(f"{path}: {name} is {getattr(tags, name)!r}; allowed: {', '.join(get_args(allowed))}.")


def _by_layer(path: Path, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    try:
        return {int(name.removeprefix("layer.")): tensor for name, tensor in tensors.items()}
    except ValueError as error:
        raise InputError(f"{path} holds a damaged steering vector: {error}.") from None


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))
