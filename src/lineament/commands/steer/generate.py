"""`lineament steer generate`: text with and without the vector, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lineament.commands.steer.source import Source, SteeredModel
from lineament.errors import InputError
from lineament.steering.formats import read_vector
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector


@dataclass(frozen=True)
class GenerateRequest:
    """What the user asked for.

    Attributes:
        prompts: texts, generated as one batch. file: more of them, one per line.
        layer: None steers at every layer of the vector.
        temperature: 0 takes the likeliest token.
    """

    vector: Path
    prompts: tuple[str, ...]
    source: Source
    file: Path | None = None
    coefficient: float = 1.0
    layer: int | None = None
    where: Where = "all"
    tokens: int = 40
    temperature: float = 0.0
    chat: bool = False


def generate(request: GenerateRequest, console: Console) -> int:
    """Print every prompt's continuation, unsteered and steered."""
    prompts = _prompts(request)
    vector = read_vector(request.vector)
    vector = vector if request.layer is None else vector.only(request.layer)
    loaded = SteeredModel(request.source)
    loaded.require_fit(vector)
    plain = continuations(loaded, prompts, request)
    moved = continuations(loaded, prompts, request, vector)
    table = Table("prompt", "unsteered", f"steered ({request.coefficient:g})", box=SIMPLE, show_lines=True)
    for row in zip(prompts, plain, moved, strict=True):
        table.add_row(*row)
    console.print(table, markup=False)
    return 0


def continuations(
    loaded: SteeredModel, prompts: Sequence[str], request: GenerateRequest, vector: SteeringVector | None = None
) -> list[str]:
    """New text for each prompt, generated in one batch with padding on the left."""
    tokenizer, model = loaded.problem.tokenizer, loaded.model
    rows = [_encoded(tokenizer, prompt, request.chat) for prompt in prompts]
    _require_room(loaded, rows, request.tokens)
    longest, padding = max(map(len, rows)), tokenizer.pad_token_id or tokenizer.eos_token_id or 0
    device = loaded.problem.device
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    options: dict[str, Any] = {"max_new_tokens": request.tokens, "pad_token_id": padding, "do_sample": False}
    if request.temperature > 0:
        options.update(do_sample=True, temperature=request.temperature)
    # Said outright, so that it holds however `generate` calls the model.
    where: Literal["all"] | Tensor = "all" if request.where == "all" else mask.sum(dim=1) - 1
    with torch.random.fork_rng(), torch.no_grad(), ExitStack() as stack:
        torch.manual_seed(request.source.seed)  # the same draws with and without the vector
        if vector:
            stack.enter_context(steered(model, vector, request.coefficient, where))
        found = model.generate(input_ids=ids, attention_mask=mask, **options)
    return [tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in found]


def _encoded(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise InputError("--chat: this tokenizer has no chat template; leave --chat out.")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _require_room(loaded: SteeredModel, rows: Sequence[Sequence[int]], new: int) -> None:
    longest, allowed = max(map(len, rows)), getattr(loaded.config, "max_position_embeddings", None)
    if not min(map(len, rows)):
        raise InputError("a prompt has no tokens; give a longer one.")
    if allowed and longest + new > allowed:
        raise InputError(
            f"a prompt of {longest} tokens and {new} new ones are more than the {allowed} that "
            f"{loaded.source.model} takes. Shorten the prompt or lower --tokens."
        )


def _prompts(request: GenerateRequest) -> list[str]:
    found = list(request.prompts)
    if request.file:
        if not request.file.is_file():
            raise InputError(f"the prompt file {request.file} does not exist.")
        try:
            text = request.file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"the prompt file {request.file} is not UTF-8 text: {error}.") from None
        found += [line.strip() for line in text.split("\n") if line.strip()]
    if not found or not all(prompt.strip() for prompt in found):
        raise InputError("no prompt: give one or more texts that are not empty, or --file with one per line.")
    if request.tokens < 1:
        raise InputError(f"--tokens {request.tokens}: it must be at least 1.")
    if not (request.temperature >= 0 and math.isfinite(request.temperature)):
        raise InputError(f"--temperature {request.temperature}: it must be at least 0 and finite.")
    if not math.isfinite(request.coefficient):
        raise InputError(f"--coefficient {request.coefficient}: it must be finite.")
    return found
