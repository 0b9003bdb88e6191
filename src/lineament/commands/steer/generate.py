"""`lineament steer generate`: text with and without the vector, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from shlex import quote
from typing import Any, Literal

import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from lineament.commands.steer.flags import NEUTRAL_ROWS, Generate, parse_layers
from lineament.commands.steer.model import SteeredModel
from lineament.commands.steer.tokens import print_steered
from lineament.commands.terminal import Step, console, say_next, steps_shown
from lineament.errors import InputError
from lineament.files.reading import read_text
from lineament.problems.conversations import Turn
from lineament.problems.problem import padded_rows
from lineament.problems.token_rows import TokenRows
from lineament.steering.effects import NeutralText
from lineament.steering.formats import read_vector
from lineament.steering.layer_sweep import coefficient_at_kl
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector

# For the time that is left: passes over neutral text until a coefficient is found.
TYPICAL_TRIES = 5


def generate(flags: Generate) -> int:
    """Print every prompt's continuation, unsteered and steered; return the exit code."""
    flags.check()
    prompts = _prompts(flags)
    vector = read_vector(flags.vector)
    vector = _at_layers(vector, flags)
    with steps_shown(flags.quiet, 2 if flags.kl is None else 2 + TYPICAL_TRIES) as step:
        step(f"loading {flags.model}", 0)
        loaded = SteeredModel(flags)
        loaded.require_fit(vector)
        chat = loaded.wording(vector.tags).chat
        rows = [_encoded(loaded.problem.encoder.rows, prompt, chat) for prompt in prompts]
        _require_room(loaded, rows, flags.tokens)
        coefficient = _coefficient(loaded, vector, flags, step)
        step("writing without the vector", 1)
        plain = continuations(loaded, rows, flags)
        step("writing with it", 1)
        moved = continuations(loaded, rows, flags, (vector, coefficient))
    if chat and not flags.chat:
        console.print("Prompts are written with the chat template, as the vector's were (--no-chat: as they are).")
    if flags.show_tokens:
        every = "So is every token that is written after them."
        print_steered(loaded, padded_rows(rows, loaded.problem.encoder.rows.padding), flags.where, every)
    table = Table("prompt", "unsteered", f"steered ({coefficient:.4g})", box=SIMPLE, show_lines=True)
    for cells in zip(prompts, plain, moved, strict=True):
        table.add_row(*cells)
    console.print(table)
    own = Generate.__dataclass_fields__["model"].default
    on = "" if flags.model == own else f" --model {quote(flags.model)}"
    effect = f"lineament steer eval {quote(str(flags.vector))} HELD_OUT_FILE{on}"
    say_next(flags.quiet, [f"{effect}  # its effect on rows that it was not made from"])
    return 0


def continuations(
    loaded: SteeredModel,
    rows: Sequence[list[int]],
    flags: Generate,
    added: tuple[SteeringVector, float] | None = None,
) -> list[str]:
    """Return new text for each row of tokens, generated in one batch with padding on the left."""
    tokenizer, model = loaded.problem.tokenizer, loaded.model
    # A row that ends early is filled up with it: a token that decoding leaves out.
    longest, padding = max(map(len, rows)), loaded.problem.encoder.rows.padding or tokenizer.eos_token_id or 0
    device = loaded.problem.device
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    options: dict[str, Any] = {"max_new_tokens": flags.tokens, "pad_token_id": padding, "do_sample": False}
    if flags.temperature > 0:
        options.update(do_sample=True, temperature=flags.temperature)
    # The position is given as a number, so that it holds however `generate` calls the model.
    where: Literal["all"] | Tensor = "all" if flags.where == "all" else mask.sum(dim=1) - 1
    with torch.random.fork_rng(), torch.no_grad(), ExitStack() as stack:
        torch.manual_seed(flags.seed)  # the same draws with and without the vector
        if added:
            stack.enter_context(steered(model, *added, where))
        rows_out = model.generate(input_ids=ids, attention_mask=mask, **options)
    return [tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in rows_out]


def _at_layers(vector: SteeringVector, flags: Generate) -> SteeringVector:
    if flags.layers and flags.layers != "all":
        return vector.only(*parse_layers(flags.layers, None))
    return vector if flags.layer is None else vector.only(flags.layer)


def _coefficient(loaded: SteeredModel, vector: SteeringVector, flags: Generate, step: Step) -> float:
    """Return the coefficient: as given, or the one at --kl on the neutral text that `steer eval` takes by default."""
    if flags.kl is None:
        return 1.0 if flags.coefficient is None else flags.coefficient
    step(f"finding the coefficient at a KL of {flags.kl:g}", TYPICAL_TRIES)
    text = loaded.problem.neutral("", NEUTRAL_ROWS)
    found = coefficient_at_kl(loaded.problem, vector, NeutralText(loaded.problem, text), flags.kl, text)
    if found.coefficient is None:
        raise InputError(
            f"--kl {flags.kl:g} is unreachable: the KL is {found.kl:.2g} nats per token at coefficient "
            f"{found.largest:.3g}. Give a smaller --kl."
        )
    return found.coefficient


def _encoded(rows: TokenRows, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return rows.of(prompt)
    text, ids_of = rows.conversation([Turn("user", prompt)])
    return ids_of(text)


def _require_room(loaded: SteeredModel, rows: Sequence[Sequence[int]], new: int) -> None:
    longest, allowed = max(map(len, rows)), getattr(loaded.config, "max_position_embeddings", None)
    if not min(map(len, rows)):
        raise InputError("a prompt has no tokens; give a longer one.")
    if allowed and longest + new > allowed:
        raise InputError(
            f"a prompt of {longest} tokens and {new} new ones are more than the {allowed} that "
            f"{loaded.flags.model} takes. Shorten the prompt or lower --tokens."
        )


def _prompts(flags: Generate) -> list[str]:
    prompts = list(flags.prompts)
    if flags.file:
        text = read_text(flags.file, "the prompt file")
        prompts += [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise InputError("there is no prompt: give one or more texts that are not empty, or --file with one per line.")
    return prompts
