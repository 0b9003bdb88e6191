"""Activations: the right module, token and layer of every family; nothing beyond computed; nothing left behind."""

from __future__ import annotations

import pytest
import torch
from decoders import DECODERS, LAYOUTS, N_LAYERS, WIDTH, decoder, hook_count, prompts, run
from problems_table import transformer_full
from torch import Tensor, nn

from lineament.activations.blocks import find_blocks
from lineament.activations.capture import (
    Place,
    Reader,
    all_layers,
    group_sums,
    length_sorted,
    problem_reader,
    read_rows,
    tokens_of_mean,
)
from lineament.activations.packed import read_answers, with_answers
from lineament.errors import InputError
from lineament.problems.problem import Batch
from lineament.streams import Streams

every_family = pytest.mark.parametrize("family", sorted(DECODERS))
CPU = torch.device("cpu")


def reader(model: nn.Module, place: Place) -> Reader:
    return Reader(model, lambda batch: run(model, batch), place, CPU)


def one_by_one(model: nn.Module, batch: Batch, module: nn.Module) -> list[Tensor]:
    """Every row's output of a module, alone and without padding: the plainest way there is."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(keep)
    with torch.no_grad():
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            model(input_ids=ids[None, : int(mask.sum())], use_cache=False)
    handle.remove()
    return [hidden[0] for hidden in kept]


@every_family
def test_blocks_and_their_parts_are_found_by_structure(family: str) -> None:
    model, (name, attention, mlp) = decoder(family), LAYOUTS[family]
    blocks = find_blocks(model)
    assert blocks.name == name
    assert len(blocks) == N_LAYERS
    for layer, block in enumerate(model.get_submodule(name), start=1):
        assert blocks.at(layer) is block
        assert blocks.at(layer, "attention") is getattr(block, attention)
        assert blocks.at(layer, "mlp") is getattr(block, mlp)


@every_family
@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
def test_last_tokens_equal_those_of_rows_run_alone(family: str, site: str) -> None:
    model, batch = decoder(family), prompts()
    found = read_rows(reader(model, Place((2, 4), site)), batch)  # type: ignore[arg-type]
    for number, layer in enumerate((2, 4)):
        alone = one_by_one(model, batch, find_blocks(model).at(layer, site))  # type: ignore[arg-type]
        expected = torch.stack([hidden[-1] for hidden in alone])
        assert torch.allclose(found[:, number], expected, atol=1e-5), (found[:, number] - expected).abs().max()


def test_layers_are_those_of_hidden_states() -> None:
    model, batch = decoder("llama"), prompts()
    with torch.no_grad():
        states = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        ).hidden_states
    found = read_rows(reader(model, Place((1, 2, 3))), batch)
    rows = torch.arange(len(batch))
    for layer in (1, 2, 3):
        assert torch.allclose(found[:, layer - 1], states[layer][rows, batch.positions[:, 0]], atol=1e-5)


def test_mean_is_over_real_tokens_but_the_first() -> None:
    model, batch = decoder("gpt2"), prompts()
    found = read_rows(reader(model, Place((3,), mean=True)), batch)
    alone = one_by_one(model, batch, find_blocks(model).at(3))
    assert torch.allclose(found[:, 0], torch.stack([hidden[1:].mean(dim=0) for hidden in alone]), atol=1e-5)


def test_a_mean_of_one_token_is_that_token_and_padding_may_be_on_either_side() -> None:
    mask = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]])
    expected = [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]]
    assert tokens_of_mean(mask).long().tolist() == expected


def test_nothing_beyond_the_last_wanted_layer_is_computed() -> None:
    model, called = decoder("llama"), []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, inputs, name=name: called.append(name))
    read_rows(reader(model, Place((1, 3))), prompts())
    reached = {int(name.split(".")[2]) for name in called if name.startswith("model.layers.")}
    assert reached == {0, 1, 2}
    assert "lm_head" not in called
    assert "model.norm" not in called


def test_group_sums_equal_sums_of_rows_and_do_not_depend_on_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = decoder("qwen2"), prompts(11)
    groups = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 2, 1])
    rows = read_rows(reader(model, Place((2, 3))), batch).double()
    whole = group_sums(reader(model, Place((2, 3))), batch, groups, 3)
    monkeypatch.setattr("lineament.activations.capture.TOKENS_PER_PASS", 9)
    monkeypatch.setattr(length_sorted, "__defaults__", (9,))
    split = group_sums(reader(model, Place((2, 3))), batch, groups, 3)
    for group in range(3):
        assert torch.allclose(whole.means()[group], rows[groups == group].mean(dim=0), atol=1e-6)
    assert torch.allclose(whole.sums, split.sums, atol=1e-5)
    assert torch.allclose(whole.rms_norms, rows.square().sum(dim=2).mean(dim=0).sqrt(), atol=1e-6)


def test_passes_are_length_sorted_within_a_budget_of_tokens() -> None:
    batch = prompts(40)
    lengths = batch.attention_mask.sum(dim=1)
    passes = list(length_sorted(batch, 24))
    assert sorted(torch.cat(passes).tolist()) == list(range(40))
    for index in passes:
        assert len(index) == 1 or len(index) * int(lengths[index].max()) <= 24
    longest = [int(lengths[index].max()) for index in passes]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
def test_the_synthetic_model_is_read_too(site: str) -> None:
    problem = transformer_full()
    batch = problem.fixed("parity", "held_out")
    found = read_rows(problem_reader(problem, Place((1, 2), site)), batch)  # type: ignore[arg-type]
    block, kept = problem.model.blocks[1], []
    module = {"block": block, "attention": block.attention, "mlp": block.down_proj}[site]
    handle = module.register_forward_hook(lambda m, i, output: kept.append(output))
    with torch.no_grad():
        problem.logits(batch)
    handle.remove()
    assert torch.allclose(found[:, 1], kept[0][torch.arange(len(batch)), batch.positions[:, -1]], atol=1e-6)


def test_no_hook_is_left_also_after_an_exception() -> None:
    model = decoder("llama")

    def fails(batch: Batch) -> object:
        run(model, Batch(batch.input_ids[:, :1], batch.attention_mask[:, :1], batch.positions, batch.targets))
        raise RuntimeError("late")

    before = hook_count(model)
    broken = Reader(model, fails, Place((4,)), CPU)
    with pytest.raises((RuntimeError, IndexError)):
        broken.read(prompts())
    assert hook_count(model) == before
    short = Reader(model, lambda batch: None, Place((4,)), CPU)
    with pytest.raises(InputError, match="did not reach"):
        short.read(prompts())
    assert hook_count(model) == before


@every_family
def test_answers_behind_one_prompt_equal_answers_behind_their_own(family: str) -> None:
    model, batch = decoder(family), prompts()
    answers = torch.from_numpy(Streams(0).generator("answers").integers(1, 13, size=(len(batch), 2)))
    found, once = read_answers(model, batch, answers, Place((1, 3, 4)), CPU)
    assert once, "every family here takes masks of its own"
    for i in (0, 1):
        plain = read_rows(reader(model, Place((1, 3, 4))), with_answers(batch, answers[:, i : i + 1]))
        assert torch.allclose(found[:, i], plain, atol=1e-5), (found[:, i] - plain).abs().max()


def test_a_model_that_ignores_the_mask_gets_two_rows() -> None:
    model, batch = decoder("llama"), prompts()
    plain = model.forward

    def deaf(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None, **rest: object) -> object:
        return plain(input_ids=input_ids, attention_mask=attention_mask if attention_mask.ndim == 2 else None, **rest)

    model.forward = deaf  # type: ignore[method-assign]
    answers = torch.stack([torch.full((len(batch),), 3), torch.full((len(batch),), 5)], dim=1)
    found, once = read_answers(model, batch, answers, Place((2,)), CPU)
    assert not once
    expected = read_rows(reader(model, Place((2,))), with_answers(batch, answers[:, 1:]))
    assert torch.allclose(found[:, 1], expected, atol=1e-5)


def test_bad_places_are_refused() -> None:
    model = decoder("llama")
    with pytest.raises(InputError, match=r"layer 5 is out of range.*1 to 4"):
        reader(model, Place((5,)))
    with pytest.raises(InputError, match="layer 0"):
        reader(model, Place((0,)))
    with pytest.raises(InputError, match="no layer"):
        reader(model, Place(()))
    with pytest.raises(InputError, match="no list of blocks that holds most parameters"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))
    assert all_layers(model) == (1, 2, 3, 4)
    assert find_blocks(model).modules[0].self_attn.q_proj.in_features == WIDTH


def test_blocks_of_several_kinds_are_one_list() -> None:
    """Hybrids of attention and state spaces mix classes, and may hold smaller lists of equal modules inside."""

    class Other(nn.Sequential):
        pass

    inner = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))
    first = nn.Sequential(nn.Linear(8, 8))
    first.adapters = inner
    model = nn.Module()
    model.layers = nn.ModuleList([first, Other(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))])
    model.embed = nn.Embedding(1000, 8)
    assert find_blocks(model).name == "layers"
    assert len(find_blocks(model)) == 3
    model.vision = nn.Linear(100, 100)
    with pytest.raises(InputError, match="holds most parameters"):
        find_blocks(model)


def test_a_part_that_gives_the_residual_stream_is_refused() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Linear(4, 4)

        def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
            return self.weight(hidden) + residual

    block = nn.Module()
    block.attention = Attention()
    model = nn.Module()
    model.layers = nn.ModuleList([block])
    with pytest.raises(InputError, match="residual stream"):
        find_blocks(model).at(1, "attention")
