"""Adapters as side branches: sums against PEFT's merged weights, derivatives by scales against a dense Hessian."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from composed import adapter, base_problem, examples, pair
from families import random_model
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.func import functional_call

from lineament import InMemoryProblem, StoredAdapter, combine_adapters, save_stored_adapter
from lineament.errors import InputError
from lineament.merging.side_branches import SideBranches, losses_at, scale_derivatives
from lineament.problems.factor_names import PREFIX

every_family = pytest.mark.parametrize("family", ["llama", "gpt2"])


@every_family
def test_losses_are_those_of_the_sum_merged_by_peft(family: str, tmp_path: Path) -> None:
    adapters, problem, batch = pair(family, tmp_path), base_problem(family), examples(5, 12)
    points = torch.tensor([[0.0, 0.0], [0.7, 0.0], [0.0, -1.3], [0.7, -1.3]], dtype=torch.float64)
    found = list(losses_at(problem, SideBranches(problem.model, adapters), batch, points))
    for point, own in zip(points, found, strict=True):
        save_stored_adapter(combine_adapters(adapters, point.tolist()), tmp_path / "sum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged = PeftModel.from_pretrained(random_model(family).double(), tmp_path / "sum").double()
        merged = merged.merge_and_unload().requires_grad_(True)
        there = InMemoryProblem(merged, {"x": examples(0)}, 4, 0)
        torch.testing.assert_close(own, there.example_losses(batch).detach(), rtol=1e-10, atol=1e-10)
    assert float((found[3] - found[0]).abs().min()) > 1e-4


@pytest.mark.parametrize("size", [1, 3, 512])
def test_pieces_of_a_batch_change_nothing(size: int, tmp_path: Path) -> None:
    adapters, problem, batch = pair("llama", tmp_path), base_problem("llama"), examples(5, 7)
    branches = SideBranches(problem.model, adapters)
    whole = scale_derivatives(problem, branches, batch, (0, 1))
    problem.chunk = size
    parts = scale_derivatives(problem, branches, batch, (0, 1))
    torch.testing.assert_close(parts.slopes, whole.slopes)
    torch.testing.assert_close(parts.curvatures, whole.curvatures)


def dense_change(adapter: StoredAdapter, name: str) -> Tensor:
    """What is added to the weight of one module of GPT-2, which is kept transposed; zero where that is nothing."""
    factors = adapter.factors.get(PREFIX + name)
    return torch.zeros(1, dtype=torch.float64) if factors is None else factors.scale * (factors.b @ factors.a).T


@pytest.mark.parametrize("point", [(), (0.6, -0.4)])
def test_derivatives_are_those_of_a_dense_hessian(point: tuple[float, ...], tmp_path: Path) -> None:
    """d2L/dsdt is A'HB with H the whole Hessian of the weights that change, formed entry by entry."""
    modules = [f"transformer.h.{layer}.attn.c_proj" for layer in (0, 1)]
    configs = [{"r": 2, "lora_alpha": 1, "target_modules": own} for own in (modules[:1], modules)]
    adapters = [adapter("gpt2", tmp_path / str(i), i, config) for i, config in enumerate(configs)]
    problem, batch = base_problem("gpt2"), examples(5, 6)
    found = scale_derivatives(problem, SideBranches(problem.model, adapters), batch, (0, 1), point)
    own = dict(problem.model.named_parameters())
    start = [own[f"{m}.weight"].detach() for m in modules]
    for scale, one in zip(point, adapters, strict=False):
        start = [w + scale * dense_change(one, m) for w, m in zip(start, modules, strict=True)]
    sizes = [w.numel() for w in start]

    def loss(flat: Tensor) -> Tensor:
        given = {f"{m}.weight": part.view_as(w) for m, part, w in zip(modules, flat.split(sizes), start, strict=True)}
        call = (batch.input_ids,), {"attention_mask": batch.attention_mask}
        logits = functional_call(problem.model, given, *call).logits
        picked = logits.gather(1, batch.positions[..., None].expand(-1, -1, logits.shape[-1]))
        return -picked.log_softmax(-1).gather(-1, batch.targets[..., None]).mean()

    theta = torch.cat([w.reshape(-1) for w in start])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        gradient = torch.func.grad(loss)(theta)
        hessian = torch.autograd.functional.hessian(loss, theta)
    moves = torch.stack(
        [
            torch.cat([(dense_change(one, m) + 0 * w).reshape(-1) for m, w in zip(modules, start, strict=True)])
            for one in adapters
        ]
    )
    torch.testing.assert_close(found.slopes.mean(0), moves @ gradient, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.curvatures.mean(0), moves @ hessian @ moves.T, rtol=1e-8, atol=1e-12)
    assert float(found.curvatures.mean(0).abs().min()) > 1e-6


def test_the_derivatives_of_an_example_are_its_own(tmp_path: Path) -> None:
    problem, batch = base_problem("gpt2"), examples(5, 6)
    branches = SideBranches(problem.model, pair("gpt2", tmp_path))
    whole = scale_derivatives(problem, branches, batch, (0,))
    alone = scale_derivatives(problem, branches, batch.rows(slice(2, 3)), (0,))
    torch.testing.assert_close(alone.curvatures[0], whole.curvatures[2])
    assert float((whole.curvatures[1] - whole.curvatures[2]).abs().max()) > 1e-4


def test_the_model_is_as_it_was_also_after_an_error(tmp_path: Path) -> None:
    problem, batch = base_problem("llama"), examples(5, 6)
    before = problem.example_losses(batch).detach()
    weights = problem.model_hash()
    branches = SideBranches(problem.model, pair("llama", tmp_path))
    with pytest.raises(RuntimeError, match="stop"), branches.at(torch.ones(2, dtype=torch.float64)):
        assert not torch.equal(problem.example_losses(batch), before)
        raise RuntimeError("stop")
    assert torch.equal(problem.example_losses(batch), before)
    assert problem.model_hash() == weights


def test_bases_that_do_not_fit_are_named(tmp_path: Path) -> None:
    first, _ = pair("llama", tmp_path)
    with pytest.raises(InputError, match=r"self_attn\.q_proj, which this model lacks"):
        SideBranches(random_model("gpt2"), [first])
    with pytest.raises(InputError, match=r"by a matrix of 16 x 16, which has 1 x 2 in this model"):
        other = random_model("llama")
        other.model.layers[0].self_attn.q_proj = torch.nn.Linear(2, 1)
        SideBranches(other, [first])
    with pytest.raises(InputError, match="is Embedding and no linear layer"):
        other.model.layers[0].self_attn.q_proj = torch.nn.Embedding(16, 16)
        SideBranches(other, [first])
    with pytest.raises(InputError, match="no adapter was given"):
        SideBranches(other, [])
    with pytest.raises(InputError, match="has an adapter attached"):
        SideBranches(get_peft_model(random_model("llama"), LoraConfig(target_modules=["q_proj"])), [first])


def test_inputs_that_are_no_rows_of_examples_are_refused(tmp_path: Path) -> None:
    """As in layers of experts, where tokens of all examples are mixed: their curvature would be of other examples."""
    problem, batch = base_problem("llama"), examples(5, 6)

    mlp = problem.model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x: forward(x.reshape(-1, x.shape[-1])).view(x.shape)
    one = adapter("llama", tmp_path, 1, {"r": 2, "target_modules": ["down_proj"]})
    branches = SideBranches(problem.model, [one])
    assert len(next(losses_at(problem, branches, batch, torch.ones(1, 1, dtype=torch.float64)))) == 6
    with pytest.raises(InputError, match="are not one row for each example"):
        scale_derivatives(problem, branches, batch, (0,))
