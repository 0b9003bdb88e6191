"""Steering vectors in files of other tools: control vectors in GGUF (llama.cpp, repeng) and tensors in torch's .pt.

Other tools count blocks from 0, so their block n is layer n + 1 here. Nothing read from a file is ever run.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lineament.errors import InputError, LineamentError
from lineament.files.reading import read_bytes, require_file
from lineament.files.writing import what_to_do, write_bytes
from lineament.steering.vector import SteeringVector, VectorTags, load_vector, parsed_tags, tags_json

ARCHITECTURE = "controlvector"
MODEL_HINT = f"{ARCHITECTURE}.model_hint"
LAYER_COUNT = f"{ARCHITECTURE}.layer_count"
TAGS_KEY = "lineament.tags"
SUFFIXES = (".safetensors", ".gguf", ".pt")
PT_ALLOWED = (
    "a dict from block (counted from 0) to tensor, such a dict under the key 'layer_activations', or one tensor with "
    "its layer given"
)
_DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]*)")


class HasLayerActivations(Protocol):
    """A steering vector of another tool, such as `SteeringVector` of the package steering-vectors."""

    @property
    def layer_activations(self) -> Mapping[int, Float[Tensor, " width"]]:
        """Block, counted from 0 -> (width,)."""


def read_vector(path: Path, layer: int | None = None) -> SteeringVector:
    """Read a vector of any known format; the suffix says which: .safetensors (ours), .gguf or .pt.

    Args:
        layer: layer, counted from 1, of a .pt file that holds a single tensor; None for every other file.

    Raises:
        InputError: another suffix, no such file, a torn one, one that holds no vector, or a layer
            for a format that stores its own.
    """
    readers: dict[str, Callable[[Path], SteeringVector]] = {".safetensors": load_vector, ".gguf": read_gguf}
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} has suffix {path.suffix!r}; vectors are read from {', '.join(SUFFIXES)} files.")
    if suffix == ".pt":
        return read_pt(path, layer)
    if layer is not None:
        raise _layers_are_stored(path, layer)
    return readers[suffix](path)


def from_layer_activations(source: HasLayerActivations, tags: VectorTags | None = None) -> SteeringVector:
    """Convert another tool's object to a vector; values are copied as float32.

    Args:
        source: its `layer_activations` map blocks, counted from 0, to (width,) tensors.
        tags: what it was made from; above all the site, `block` unless said otherwise.

    Raises:
        InputError: a key that is no block, a value that is no vector, or what `SteeringVector` refuses.
    """
    return _from_blocks(source.layer_activations, tags or VectorTags())


def require_replaceable(path: Path) -> None:
    """Raise `InputError` if a file exists and is no steering vector: --overwrite replaces nothing else."""
    if path.exists() or path.is_symlink():
        try:
            read_vector(path)
        except InputError as error:
            raise InputError(f"{path} exists and is no steering vector, so it is not replaced: {error}") from None


def write_gguf(vector: SteeringVector, path: Path, model_type: str, skip_first: bool = False) -> None:
    """Write a control vector as repeng writes it and llama.cpp loads it; the whole file or none.

    Layer l becomes the tensor `direction.(l-1)`, which llama.cpp adds to the output of its block l - 1, layer l here.

    Args:
        model_type: what transformers calls the architecture (`config.model_type`), such as `llama`.
        skip_first: leave out layer 1, which llama.cpp cannot add, instead of refusing it.

    Raises:
        InputError: no model type, a site other than `block`, layer 1 without `skip_first`, or no other layer.
        LineamentError: the file could not be written.
    """
    if not model_type:
        raise InputError("a GGUF control vector needs a model type; give the model's config.model_type, such as llama.")
    kept = _without_first(vector, skip_first)
    try:
        # The package's writer wants a path of its own; its bytes then go where they belong in one rename.
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "vector.gguf"
            _write_gguf_file(kept, made, model_type)
            content = read_bytes(made)
    except OSError as error:
        raise LineamentError(f"could not write {path}: {error.strerror}. {what_to_do(error)}") from error
    write_bytes(path, content)


def read_gguf(path: Path) -> SteeringVector:
    """Read a control vector in GGUF; the tags are empty unless `write_gguf` wrote it.

    Tensor `direction.n` becomes layer n + 1, where llama.cpp and repeng add it. A file of llama.cpp's cvector-generator
    was read one layer below the one it is added at; the two cannot be told apart, and where it is added counts here.

    Raises:
        InputError: no such file, a torn one, or anything else than float32 vectors `direction.n` in it.
    """
    tensors, text = _read_gguf_file(path)
    blocks = {}
    for name, values in tensors.items():
        match = _DIRECTION.fullmatch(name)
        if match is None:
            raise InputError(f"{path} is no control vector: it holds {name!r}; only tensors direction.N are allowed.")
        if values.dtype != np.float32:
            raise InputError(f"{path}: {name} is not float32, the only type of a control vector.")
        blocks[int(match[1])] = torch.from_numpy(values)
    return _from_blocks(blocks, VectorTags() if text is None else parsed_tags(path, text))


def read_pt(path: Path, layer: int | None = None) -> SteeringVector:
    """Read tensors that another tool saved with `torch.save`, without running code that the file may hold.

    Args:
        path: its content is a dict from block, counted from 0, to (width,) tensor; a dict that holds such a dict under
            `layer_activations`; or one (width,) tensor.
        layer: layer, counted from 1, of the one tensor.

    Raises:
        InputError: no such file, a torn one, any other content, one tensor without its layer, or a layer
            for a dict that names its own.
    """
    content = _torch_content(path)
    if isinstance(content, Tensor):
        if layer is None or layer < 1:
            raise InputError(f"{path} holds one tensor and does not say where it belongs. Give its layer, from 1 on.")
        return _from_blocks({layer - 1: content}, VectorTags())
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; allowed: {PT_ALLOWED}.")
    if layer is not None:
        raise _layers_are_stored(path, layer)
    return _from_blocks(content.get("layer_activations", content), VectorTags())


def _from_blocks(blocks: object, tags: VectorTags) -> SteeringVector:
    """Make a vector from block, counted from 0 -> (width,); everything is checked, since it comes from elsewhere."""
    if not isinstance(blocks, Mapping):
        raise InputError(f"layer_activations is a {type(blocks).__name__}; it must be a dict from block to tensor.")
    for block, value in blocks.items():
        if type(block) is not int or block < 0:
            raise InputError(f"key {block!r} is no block; keys must be whole numbers, counted from 0.")
        if not _is_dense(value):
            raise InputError(f"block {block} holds no dense floating-point tensor but a {_kind(value)}.")
    made = {block + 1: value.detach().to("cpu", torch.float32, copy=True) for block, value in blocks.items()}
    return SteeringVector(made, tags)


def _is_dense(value: object) -> bool:
    return (
        isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided and not value.is_meta
    )


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _without_first(vector: SteeringVector, skip_first: bool) -> SteeringVector:
    if vector.tags.site != "block":
        raise InputError(
            f"the vector belongs to the output of each block's {vector.tags.site}, but llama.cpp adds control vectors "
            "to the output of whole blocks. Save it as .safetensors, or make one with site block."
        )
    rest = [layer for layer in vector.layers if layer > 1]
    if not rest:
        raise InputError("the vector has layer 1 only, where llama.cpp cannot add anything. Save it as .safetensors.")
    if len(rest) < len(vector.layers) and not skip_first:
        raise InputError(
            "the vector has layer 1, where llama.cpp cannot add anything: it refuses files with direction.0. Leave "
            "that layer out (skip_first), or save the vector as .safetensors."
        )
    return vector.only(*rest)


def _write_gguf_file(vector: SteeringVector, path: Path, model_type: str) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_string(MODEL_HINT, model_type)
        writer.add_uint32(LAYER_COUNT, len(vector.layers))
        writer.add_string(TAGS_KEY, tags_json(vector.tags))
        for block, direction in vector.layer_activations.items():
            writer.add_tensor(f"direction.{block}", direction.float().contiguous().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _read_gguf_file(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """Return the tensors by name, copied out of the file, and the text of our tags if there is one."""
    _require_file(path)
    try:
        reader = _whole_reader(path)
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        tags = reader.get_field(TAGS_KEY)
        return tensors, None if tags is None else bytes(tags.parts[-1]).decode()
    except Exception as error:  # the reader trusts its file: a torn one fails in any of a dozen ways
        raise InputError(f"{path} is no whole GGUF file: {_first_line(error)}. Copy or export it again.") from error


def _whole_reader(path: Path) -> Any:
    """Make a reader that notices when the file ends too early; the package's own may then loop for ever."""
    from gguf import GGUFReader

    class WholeReader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

    return WholeReader(path)


def _torch_content(path: Path) -> object:
    _require_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn archive, a foreign file, code: each has its own type
        raise InputError(
            f"{path} could not be read: it is torn, no file of torch.save, or holds objects whose loading would run "
            f"code, which Lineament never does. Allowed: {PT_ALLOWED}."
        ) from error


def _require_file(path: Path) -> None:
    require_file(path, "the vector file")


def _layers_are_stored(path: Path, layer: int) -> InputError:
    return InputError(f"layer {layer} was given, but {path} names its layers itself. Leave the layer out.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
