"""`lineament steer export` and `import`: vectors to and from the files of other tools."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from lineament.errors import InputError
from lineament.steering.formats import read_vector, write_gguf
from lineament.steering.vector import SteeringVector, save_vector


@dataclass(frozen=True)
class ExportRequest:
    """A vector of ours, the GGUF file to write, and what transformers calls the architecture."""

    vector: Path
    out: Path
    model_type: str
    skip_first: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ImportRequest:
    """A file of another tool, the vector file to write, and what the file may not say itself."""

    file: Path
    out: Path
    layer: int | None = None
    model: str = ""
    overwrite: bool = False


def export_vector(request: ExportRequest, console: Console) -> int:
    """Write a GGUF control vector."""
    _require_out(request.out, ".gguf", request.overwrite)
    vector = read_vector(request.vector)
    write_gguf(vector, request.out, request.model_type or vector.tags.model_type, request.skip_first)
    if request.skip_first and 1 in vector.layers:
        console.print("layer 1 is left out: llama.cpp can add nothing there.")
    console.print(f"{_described(read_vector(request.out))}: {request.out}", soft_wrap=True)
    return 0


def import_vector(request: ImportRequest, console: Console) -> int:
    """Write a file of another tool as one of ours."""
    _require_out(request.out, ".safetensors", request.overwrite)
    vector = read_vector(request.file, request.layer)
    if request.model:
        vector = replace(vector, tags=replace(vector.tags, model=request.model))
    save_vector(vector, request.out)
    console.print(f"{_described(vector)}: {request.out}", soft_wrap=True)
    return 0


def _require_out(out: Path, suffix: str, overwrite: bool) -> None:
    if out.suffix != suffix:
        raise InputError(f"{out} must end in {suffix}.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another name or add --overwrite.")


def _described(vector: SteeringVector) -> str:
    layers = (
        f"layers {vector.layers[0]} to {vector.layers[-1]}" if len(vector.layers) > 1 else f"layer {vector.layers[0]}"
    )
    return f"{len(vector.layers)} direction(s) of width {vector.width}, {layers}"
