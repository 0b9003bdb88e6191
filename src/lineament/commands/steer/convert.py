"""`lineament steer export` and `import`: vectors to and from the files of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lineament.commands.steer.flags import Export, Import
from lineament.commands.terminal import console
from lineament.errors import InputError
from lineament.steering.formats import read_vector, require_replaceable, write_gguf
from lineament.steering.vector import SteeringVector, save_vector


def export_vector(flags: Export) -> int:
    """Write a GGUF control vector; return the exit code."""
    _require_out(flags.out, ".gguf", flags.overwrite)
    vector = read_vector(flags.vector)
    write_gguf(vector, flags.out, flags.model_type or vector.tags.model_type, flags.skip_first)
    if flags.skip_first and 1 in vector.layers:
        console.print("layer 1 is left out: llama.cpp can add nothing there.")
    console.print(f"{_described(read_vector(flags.out))}: {flags.out}", soft_wrap=True)
    return 0


def import_vector(flags: Import) -> int:
    """Write a file of another tool as one of Lineament's; return the exit code."""
    _require_out(flags.out, ".safetensors", flags.overwrite)
    vector = read_vector(flags.file, flags.layer)
    if flags.model:
        vector = replace(vector, tags=replace(vector.tags, model=flags.model))
    save_vector(vector, flags.out)
    console.print(f"{_described(vector)}: {flags.out}", soft_wrap=True)
    return 0


def _require_out(out: Path, suffix: str, overwrite: bool) -> None:
    if out.suffix != suffix:
        raise InputError(f"the output file must end in {suffix}; got {out}.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another name or add --overwrite.")
    require_replaceable(out)


def _described(vector: SteeringVector) -> str:
    layers = (
        f"layers {vector.layers[0]} to {vector.layers[-1]}" if len(vector.layers) > 1 else f"layer {vector.layers[0]}"
    )
    return f"{len(vector.layers)} direction(s) of width {vector.width}, {layers}"
