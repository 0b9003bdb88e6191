"""Activations at two answers to one prompt, with the prompt computed once.

Both answers stand behind the prompt in one row; the mask hides the first from the second, and both have the position
right after the prompt. Each is then computed just as if it stood there alone. Whether a model honours such a mask is
not looked up but tried, on the longest prompt; one that does not gets two rows per prompt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from lineament.activations.capture import TOKENS_PER_PASS, Place, Reader, length_sorted
from lineament.problems.problem import Batch

# Packed and plain activations may differ by this, relative to their norm, before packing is given up: a wrong mask is
# wrong by far more, and float32 rounding by far less.
TOLERANCE = 1e-3


@torch.no_grad()
def read_answers(
    model: nn.Module, prompts: Batch, answers: Int[Tensor, "n_prompts 2"], place: Place, device: torch.device
) -> tuple[Float32[Tensor, "n_prompts 2 n_layers width"], bool]:
    """Read the activations at both answers.

    Args:
        model: a decoder of transformers, called as `model(input_ids=, attention_mask=, position_ids=)`.
        prompts: rows that end with the token before the answer, padded on the right.
        answers: (n, 2) token ids.

    Returns:
        (n, 2, n_layers, width) float32 on the CPU, and whether prompts were computed once.
    """
    plain, packed = _plain_reader(model, place, device), _packed_reader(model, place, device)
    order = list(length_sorted(prompts, TOKENS_PER_PASS))
    first = order[0][:1]
    once = not place.mean and _agrees(plain, packed, prompts.rows(first), answers[first])
    read, reader = (_read_packed, packed) if once else (_read_plain, plain)
    activations: Tensor | None = None
    for index in order:
        rows = read(reader, prompts.rows(index), answers[index]).float().cpu()
        if activations is None:
            activations = torch.empty(len(prompts), *rows.shape[1:])
        activations[index] = rows
    assert activations is not None
    return activations, once


def with_answers(prompts: Batch, answers: Int[Tensor, "n_prompts n_answers"]) -> Batch:
    """Append its answers (n, k), one token each, to every prompt; `positions` are those of the answers."""
    n_answers = answers.shape[1]
    lengths = prompts.attention_mask.sum(dim=1)
    places = lengths[:, None] + torch.arange(n_answers, device=lengths.device)
    ids = torch.nn.functional.pad(prompts.input_ids, (0, n_answers)).scatter(1, places, answers)
    mask = (torch.arange(ids.shape[1], device=lengths.device) < (lengths + n_answers)[:, None]).to(
        prompts.attention_mask
    )
    return Batch(ids, mask, places, torch.zeros_like(places))


def _plain_reader(model: nn.Module, place: Place, device: torch.device) -> Reader:
    def forward(batch: Batch) -> object:
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    return Reader(model, forward, place, device)


def _packed_reader(model: nn.Module, place: Place, device: torch.device) -> Reader:
    dtype = next(model.parameters()).dtype

    def forward(batch: Batch) -> object:
        lengths = batch.positions[:, 0]
        mask = packed_mask(lengths, batch.input_ids.shape[1], dtype)
        places = torch.arange(batch.input_ids.shape[1], device=lengths.device).expand_as(batch.input_ids)
        places = torch.where(places > lengths[:, None], places - 1, places)
        return model(input_ids=batch.input_ids, attention_mask=mask, position_ids=places, use_cache=False)

    return Reader(model, forward, place, device)


def packed_mask(
    lengths: Int[Tensor, " n_prompts"], width: int, dtype: torch.dtype
) -> Float[Tensor, "n_prompts 1 n_tokens n_tokens"]:
    """Make the additive mask (n, 1, width, width): causal, and the second answer does not see the first.

    Args:
        lengths: (n,) tokens of each prompt; its answers stand at `lengths` and `lengths + 1`.
    """
    place = torch.arange(width, device=lengths.device)
    seen = (place[None, :] <= place[:, None]).expand(len(lengths), -1, -1).clone()
    index = torch.arange(len(lengths), device=lengths.device)
    seen[index, lengths + 1, lengths] = False
    hidden = torch.zeros(seen.shape, dtype=dtype, device=lengths.device).masked_fill(~seen, torch.finfo(dtype).min)
    return hidden[:, None]


def _read_packed(reader: Reader, prompts: Batch, answers: Tensor) -> Tensor:
    batch = with_answers(prompts, answers)
    return reader.read_at(batch, batch.positions).transpose(1, 2)


def _read_plain(reader: Reader, prompts: Batch, answers: Tensor) -> Tensor:
    by_answer = [reader.read(with_answers(prompts, answer[:, None])) for answer in answers.unbind(dim=1)]
    return torch.stack(by_answer, dim=1)


def _agrees(plain: Reader, packed: Reader, prompts: Batch, answers: Tensor) -> bool:
    try:
        together = _read_packed(packed, prompts, answers)
    except Exception:  # no position ids, or no masks of this form: a foreign model says so in its own way
        return False
    alone = _read_plain(plain, prompts, answers)
    return bool(((together - alone).norm(dim=-1) <= TOLERANCE * alone.norm(dim=-1)).all())
