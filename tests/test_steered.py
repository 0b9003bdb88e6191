"""Steering during forward passes and generation: the right tokens, cache or not, padded or not; nothing left behind."""

from __future__ import annotations

import pytest
import torch
from decoders import DECODERS, N_LAYERS, WIDTH, decoder, hook_count, prompts, run
from torch import Tensor, nn

from lineament.activations.blocks import find_blocks
from lineament.errors import InputError
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector, VectorTags

every_family = pytest.mark.parametrize("family", sorted(DECODERS))
WHERES = ["all", "answer", 2]


def vector(*layers: int, scale: float = 3.0, site: str = "block") -> SteeringVector:
    generator = torch.Generator().manual_seed(1)
    made = {layer: scale * torch.randn(WIDTH, generator=generator) for layer in layers}
    return SteeringVector(made, VectorTags(n_layers=N_LAYERS, site=site))  # type: ignore[arg-type]


def outputs(model: nn.Module, layer: int, ids: Tensor) -> Tensor:
    """Output of a block as the next one gets it."""
    kept: list[Tensor] = []
    following = find_blocks(model).at(layer + 1)
    handle = following.register_forward_pre_hook(
        lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    return kept[0]


@every_family
def test_the_next_block_gets_the_sum(family: str) -> None:
    model, ids, v = decoder(family), prompts().input_ids[:1, :3], vector(2)
    before = outputs(model, 2, ids)
    with steered(model, v, 0.5):
        after = outputs(model, 2, ids)
    assert torch.allclose(after, before + 0.5 * v.directions[2], atol=1e-6)
    assert torch.equal(outputs(model, 2, ids), before)


@pytest.mark.parametrize(("where", "first"), [("all", 0), ("answer", 4), (2, 2)])
def test_steering_begins_at_the_wanted_token(where: str, first: int) -> None:
    model, v = decoder("llama"), vector(2)
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    before = outputs(model, 2, ids)
    with steered(model, v, 1.0, where):  # type: ignore[arg-type]
        moved = outputs(model, 2, ids) - before
    expected = torch.zeros_like(moved)
    expected[:, first:] = v.directions[2]
    assert torch.allclose(moved, expected, atol=1e-5)


@every_family
@pytest.mark.parametrize("where", WHERES)
def test_generation_with_a_cache_equals_plain_passes_over_the_whole_text(family: str, where: str) -> None:
    """Greedy decoding of each prompt alone, recomputing everything at every step, is the truth."""
    model, batch, v = decoder(family), prompts(4), vector(2, 3)
    rows = [ids[: int(mask.sum())] for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    expected = [greedy(model, row, v, where, 6) for row in rows]
    longest = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.zeros(longest - len(row), dtype=torch.long), row]) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    with steered(model, v, 1.0, where), torch.no_grad():  # type: ignore[arg-type]
        found = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0
        )
    assert found[:, longest:].tolist() == expected


def greedy(model: nn.Module, prompt: Tensor, v: SteeringVector, where: str, n: int) -> list[int]:
    """Likeliest tokens one by one; the hook by hand: token i >= first of the row gets the vector."""
    first = {"all": 0, "answer": len(prompt) - 1}.get(where, where)
    handles = []
    for layer, direction in v.directions.items():

        def add(m: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...], d: Tensor = direction) -> object:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, first:] += d
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handles.append(find_blocks(model).at(layer).register_forward_hook(add))
    ids = prompt
    for _ in range(n):
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, -1].clone()
        logits[0] = -torch.inf  # min_new_tokens forbids the end-of-text token
        ids = torch.cat([ids, logits.argmax()[None]])
    for handle in handles:
        handle.remove()
    return ids[len(prompt) :].tolist()


@every_family
def test_coefficient_zero_is_bit_identical_and_adds_no_hook(family: str) -> None:
    model, batch = decoder(family), prompts()
    with torch.no_grad():
        before, count = run(model, batch), hook_count(model)
        with steered(model, vector(1, 2, 3, 4), 0.0, "answer"):
            assert hook_count(model) == count
            assert torch.equal(run(model, batch), before)
        with steered(model, vector(1, 2, 3, 4), 1.0):
            assert not torch.equal(run(model, batch), before)
        assert torch.equal(run(model, batch), before)


def test_padding_on_the_left_changes_nothing() -> None:
    model, v, row = decoder("llama"), vector(2), [5, 6, 7, 8]
    padded, mask = torch.tensor([[0, 0, *row]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    places = torch.tensor([[0, 0, 0, 1, 2, 3]])
    with torch.no_grad():
        for where in WHERES:
            with steered(model, v, 1.0, where):  # type: ignore[arg-type]
                alone = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
                with_padding = model(input_ids=padded, attention_mask=mask, position_ids=places, use_cache=False)
            assert torch.allclose(with_padding.logits[0, -1], alone, atol=1e-5)


@pytest.mark.parametrize("site", ["attention", "mlp"])
def test_other_sites_are_steered_there(site: str) -> None:
    model, ids, v = decoder("qwen2"), torch.tensor([[3, 4, 5]]), vector(3, site=site)
    kept: list[Tensor] = []
    with steered(model, v, 2.0):
        module = find_blocks(model).at(3, site)  # type: ignore[arg-type]
        handle = module.register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
        handle.remove()
        plain: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, i, o: plain.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    assert torch.allclose(kept[0], plain[0] + 2.0 * v.directions[3], atol=1e-5)


def test_hooks_are_gone_after_an_exception_inside_and_after_a_bad_vector() -> None:
    model = decoder("gpt2")
    count = hook_count(model)
    with pytest.raises(KeyError), steered(model, vector(2), 1.0, "answer"):
        assert hook_count(model) > count
        raise KeyError("the user's own")
    assert hook_count(model) == count
    with pytest.raises(InputError, match="out of range"), steered(model, SteeringVector({9: torch.ones(WIDTH)}), 1.0):
        pass
    wide = SteeringVector({2: torch.ones(WIDTH + 1)})
    with pytest.raises(InputError, match=f"width {WIDTH + 1}"), steered(model, wide, 1.0):
        run(model, prompts())
    with pytest.raises(InputError, match="finite"), steered(model, vector(2), float("nan")):
        pass
    with pytest.raises(InputError, match="start at token -1"), steered(model, vector(2), 1.0, -1):
        pass
    assert hook_count(model) == count


def test_first_places_hold_however_generate_calls_the_model() -> None:
    """Without a cache, with drafts, in prefill chunks and for beams: the same text as plain greedy decoding."""
    model, v = decoder("llama"), vector(2, 3)
    ids = torch.tensor([[3, 4, 5, 6, 7], [0, 0, 8, 9, 10]])
    mask = (ids > 0).long()
    first = mask.sum(dim=1) - 1
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}

    def text(where: object, n: int = 2, **more: object) -> list[list[int]]:
        with steered(model, v, 1.0, where), torch.no_grad():  # type: ignore[arg-type]
            found = model.generate(input_ids=ids[:n], attention_mask=mask[:n], **{**options, **more})
        return found[:, 5:].tolist()

    expected = text("answer")
    assert text(first) == expected
    assert text(first, use_cache=False) == expected
    assert text(first[:1], 1, prompt_lookup_num_tokens=3) == expected[:1]
    assert text(first, prefill_chunk_size=2) == expected
    assert text(first, num_beams=3) == text(first, num_beams=3, use_cache=False)


def test_tokens_that_cannot_be_told_apart_are_refused() -> None:
    model, v, count = decoder("llama"), vector(2), hook_count(decoder("llama"))
    ids = torch.tensor([[3, 4, 5]])
    with pytest.raises(InputError, match="Did you mean 'answer'"), steered(model, v, 1.0, "anser"):  # type: ignore[arg-type]
        pass
    with torch.no_grad():
        filled = model(input_ids=ids, use_cache=True).past_key_values
        with pytest.raises(InputError, match="cache was filled before"), steered(model, v, 1.0, "answer"):
            model(input_ids=ids[:, :1], past_key_values=filled)
        prepared = torch.zeros(1, 1, 3, 3)
        with pytest.raises(InputError, match="prepared attention mask"), steered(model, v, 1.0, 1):
            model(input_ids=ids, attention_mask=prepared)
        with (
            pytest.raises(InputError, match="2 first places were given for 1 rows"),
            steered(model, v, 1.0, torch.tensor([0, 1])),
        ):
            model(input_ids=ids)
    assert hook_count(model) == count


def test_blocks_kept_in_a_dict_of_modules_belong_to_what_calls_them() -> None:
    class Body(nn.Module):
        """As nanoGPT keeps its layers."""

        def __init__(self) -> None:
            super().__init__()
            blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH)) for _ in range(3))
            self.parts = nn.ModuleDict({"embed": nn.Embedding(20, WIDTH), "h": blocks})

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.parts["embed"](input_ids)
            for block in self.parts["h"]:
                x = block(x)
            return x

    model, ids, v = Body(), torch.tensor([[1, 2, 3, 4]]), SteeringVector({3: torch.ones(WIDTH)})
    with torch.no_grad():
        before = model(ids)
        with steered(model, v, 1.0, 2):
            moved = model(ids) - before
    assert not moved[:, :2].any()
    assert torch.allclose(moved[:, 2:], torch.ones(1, 2, WIDTH), atol=1e-6)
