"""Tensors from safetensors files, with an error that names the file and says what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lineament.errors import InputError
from lineament.files.reading import require_file

# A safetensors file begins with the length of its header in so many bytes.
LENGTH_BYTES = 8
# Files of ours that are only kept so that they need not be made again.
MADE_AGAIN = "It is made again when it is missing: delete it, then repeat the command."


def described_tensors(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of torch tensors with several keys of metadata, the same bytes for the same content.

    The library keeps metadata in a hash map, whose order is another one each time; here the keys are sorted.
    """
    from safetensors.torch import save

    content = save(dict(tensors), metadata=dict(metadata))
    size = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + content[LENGTH_BYTES + size :]


@contextmanager
def open_tensors(path: Path, what: str = "the file", remedy: str = "Give a whole file.") -> Iterator[Any]:
    """Open a safetensors file whose tensors become torch's when they are asked for.

    Args:
        what: how errors begin, before the path. remedy: how they end.

    Raises:
        InputError: it is missing, no ordinary file, torn, or lacks a tensor that is asked for inside the block.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path, what)
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise InputError(f"{what} {path} cannot be read: {str(error).rstrip('.')}. {remedy}") from None


def load_tensors(
    path: Path,
    what: str = "the file",
    remedy: str = "Give a whole file.",
    needs: Mapping[str, Any] | tuple[str, ...] = (),
    framework: Literal["pt", "np"] = "pt",
) -> dict[str, Any]:
    """Read every tensor of a safetensors file, as torch's or numpy's.

    Args:
        needs: names that must be there; of a mapping, name -> tensor, also with its shape.

    Raises:
        InputError: as `open_tensors`, or a tensor that is needed is missing or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file as load_arrays
    from safetensors.torch import load_file

    require_file(path, what)
    try:
        tensors: dict[str, Any] = (load_file if framework == "pt" else load_arrays)(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{what} {path} cannot be read: {str(error).rstrip('.')}. {remedy}") from None
    for name in needs:
        if name not in tensors:
            raise InputError(f"{what} {path} lacks {name!r}. {remedy}")
        if isinstance(needs, Mapping) and tuple(tensors[name].shape) != tuple(needs[name].shape):
            raise InputError(
                f"{what} {path} holds {name!r} of shape {tuple(tensors[name].shape)}, not {tuple(needs[name].shape)}. "
                f"{remedy}"
            )
    return tensors
