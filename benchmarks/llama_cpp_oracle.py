"""What llama.cpp itself makes of a control vector of ours, recorded for our tests; run by an environment of its own.

    pip install --no-deps xllamacpp==2026.10.11549 && pip install gguf safetensors numpy
    python benchmarks/llama_cpp_oracle.py tests/data/steering_vectors_oracle.safetensors \
        tests/data/tiny_llama_vector.gguf tests/data/llama_cpp_oracle.safetensors

The package is llama.cpp built for Linux on x86-64; its library exports llama.cpp's C interface and the function behind
`--control-vector`, which are called here through ctypes. The model is the tiny Llama of the first file, as GGUF in
float32 with a float32 key-value cache. Keys of the output, all float32 but the tokens:

    loaded/LAYER   (width,) what the loader of llama.cpp read, for the layer at which llama.cpp adds it
    logits/none    (vocabulary,) logits at the last token without a vector
    logits/LAYER   the same with the vector added at this layer only (--control-vector-layer-range)
    logits/all     the same with the vector at all its layers
    tokens         (length,) int32
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from gguf import GGUFWriter
from safetensors import safe_open
from safetensors.numpy import save_file

TOKENS = np.array([*b"Paris is in France. Answer:"], np.int32)
LOADER = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
# Places of fields in llama_context_params of this release, in 4-byte words.
FLASH_ATTENTION, CACHE_TYPES = 13, (26, 27)
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Library = ctypes.CDLL


class Parameters(ctypes.Structure):
    """Any structure that llama.cpp passes by value; longer than each of them, which the calling convention allows."""

    _fields_ = (("words", ctypes.c_int32 * 128),)


class LoadInfo(ctypes.Structure):
    """`common_control_vector_load_info`; the wheel's strings are pointers to characters behind a header."""

    _fields_ = (("strength", ctypes.c_float), ("fname", ctypes.c_void_p))


class Vector(ctypes.Structure):
    """`std::vector`: begin, end, end of storage."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("storage", ctypes.c_void_p))


class Loaded(ctypes.Structure):
    """`common_control_vector_data`."""

    _fields_ = (("n_embd", ctypes.c_int), ("data", Vector))


def main() -> None:
    weights, vector, out = map(Path, sys.argv[1:])
    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    n_embd, data = loaded(library, vector)
    rows = data.reshape(-1, n_embd)
    with tempfile.TemporaryDirectory() as folder:
        config = write_model(weights, Path(folder) / "tiny.gguf")
        run = runner(library, Path(folder) / "tiny.gguf", config["vocab_size"])
    layers = range(2, len(rows) + 2)
    tensors = {f"loaded/{layer}": rows[layer - 2] for layer in layers} | {"tokens": TOKENS, "logits/none": run(None)}
    for layer in layers:
        tensors[f"logits/{layer}"] = run(rows, layer - 1, layer - 1)
    tensors["logits/all"] = run(rows, 1, len(rows))
    assert np.array_equal(run(None), tensors["logits/none"])
    save_file(tensors, out, {"versions": json.dumps({"xllamacpp": version("xllamacpp"), "gguf": version("gguf")})})


def loaded(library: Library, path: Path) -> tuple[int, np.ndarray]:
    """Width, and the rows of blocks 1, 2, ... as llama.cpp's own loader lays them out; width -1 if it refuses."""
    name = str(path).encode()
    text = ctypes.create_string_buffer(struct.pack("<QQq", len(name), len(name), 1000) + name + b"\0")
    info = LoadInfo(1.0, ctypes.addressof(text) + 24)
    end = ctypes.addressof(info) + ctypes.sizeof(info)
    result, load = Loaded(), getattr(library, LOADER)
    load.restype = None
    load(ctypes.byref(result), ctypes.byref(Vector(ctypes.addressof(info), end, end)))
    n = ((result.data.end or 0) - (result.data.begin or 0)) // 4
    return result.n_embd, np.array((ctypes.c_float * n).from_address(result.data.begin)) if n else np.zeros(0)


def runner(library: Library, model: Path, n_vocabulary: int) -> Callable[..., np.ndarray]:
    """A function that runs the model with a vector at blocks first to last, and returns the last token's logits."""
    call = functions(library)
    call["llama_backend_init"]()
    loaded_model = call["llama_model_load_from_file"](str(model).encode(), call["llama_model_default_params"]())
    parameters = call["llama_context_default_params"]()
    assert [parameters.words[i] for i in (FLASH_ATTENTION, *CACHE_TYPES)] == [-1, 1, 1], "another layout of fields"
    for i in (FLASH_ATTENTION, *CACHE_TYPES):
        parameters.words[i] = 0  # no flash attention; float32
    parameters.words[0] = 64
    context = call["llama_init_from_model"](loaded_model, parameters)
    assert context

    def run(rows: np.ndarray | None, first: int = 0, last: int = 0) -> np.ndarray:
        given = (None, 0, 0) if rows is None else (rows.ctypes.data, rows.size, rows.shape[1])
        assert call["llama_set_adapter_cvec"](context, *given, first, last) == 0
        call["llama_memory_clear"](call["llama_get_memory"](context), True)
        assert call["llama_decode"](context, call["llama_batch_get_one"](TOKENS.ctypes.data, len(TOKENS))) == 0
        row = call["llama_get_logits_ith"](context, -1)
        return np.array((ctypes.c_float * n_vocabulary).from_address(row))

    return run


def functions(library: Library) -> dict[str, Any]:
    """Functions of llama.h with their types."""
    pointer, number, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
    types: dict[str, tuple[Any, ...]] = {
        "llama_backend_init": (None,),
        "llama_model_default_params": (Parameters,),
        "llama_context_default_params": (Parameters,),
        "llama_model_load_from_file": (pointer, ctypes.c_char_p, Parameters),
        "llama_init_from_model": (pointer, pointer, Parameters),
        "llama_get_memory": (pointer, pointer),
        "llama_memory_clear": (None, pointer, ctypes.c_bool),
        "llama_batch_get_one": (Parameters, pointer, number),
        "llama_decode": (number, pointer, Parameters),
        "llama_get_logits_ith": (pointer, pointer, number),
        "llama_set_adapter_cvec": (number, pointer, pointer, size, number, number, number),
    }
    found = {}
    for name, (result, *arguments) in types.items():
        found[name] = getattr(library, name)
        found[name].restype, found[name].argtypes = result, arguments
    return found


def write_model(weights: Path, path: Path) -> dict[str, Any]:
    """The tiny Llama as GGUF, without a vocabulary of texts; returns its config."""
    with safe_open(weights, "np") as file:
        config = json.loads(file.metadata()["configs"])["tiny-llama"]
        start = "weights/tiny-llama/"
        tensors = {k.removeprefix(start): file.get_tensor(k) for k in file.keys() if k.startswith(start)}  # noqa: SIM118
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    for name, tensor in tensors.items():
        writer.add_tensor(gguf_name(name), arranged(name, tensor.astype(np.float32), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of transformers' Llama."""
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outer:
        return outer[name]
    _, _, block, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{block}.{NAMES[part]}.weight"


def arranged(name: str, tensor: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Rows of queries and keys in the order of llama.cpp, which turns neighbours rather than halves."""
    key = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
    heads = next((config[value] for part, value in key.items() if part in name), None)
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


if __name__ == "__main__":
    main()
