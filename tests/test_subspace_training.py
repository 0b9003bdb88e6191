"""Planes refreshed by retention, adapters, and transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lineament.errors import InputError, NonFiniteError
from lineament.parameters import ParameterSpace
from lineament.subspace.clock import RefreshClock, RetentionRule
from lineament.subspace.optimizer import SubspaceOptimizer
from lineament.subspace.projections import MatrixPlanes
from lineament.vectors.recording.writer import Recorder


def ticked(energies: Sequence[tuple[float, float]], **rule: Any) -> RefreshClock:
    clock = RefreshClock(RetentionRule(**rule))
    for inside, total in energies:
        clock.tick(inside, total)
    return clock


def test_a_plane_is_due_when_its_share_has_fallen_and_not_before() -> None:
    fresh, steady = [(0.8, 1.0)] * 10, [(0.5, 1.0)] * 5
    assert ticked(fresh).kept() is None
    assert ticked(fresh * 2).kept() == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))
    assert not ticked(fresh * 5).due()
    # 0.8 to 0.72 is 90 %; the mean of the last ten passes it with the third 0.5
    assert not ticked([*fresh, *fresh, *steady[:2]]).due()
    assert ticked([*fresh, *fresh, *steady]).due()


def test_the_share_that_is_kept_is_one_of_energies_with_the_error_of_a_ratio() -> None:
    """A strong gradient counts for more than a weak one: sums are compared, not shares of steps."""
    rng = np.random.default_rng(0)
    totals = rng.uniform(0.5, 2, size=20)
    inside = totals * np.r_[rng.uniform(0.7, 0.9, 10), rng.uniform(0.3, 0.7, 10)]
    kept = ticked(list(zip(inside.tolist(), totals.tolist(), strict=True))).kept()
    assert kept is not None
    first, last = inside[:10].sum() / totals[:10].sum(), inside[10:].sum() / totals[10:].sum()
    assert kept[0] == pytest.approx(last / first)
    # against drawing windows again, with the same scatter
    drawn = []
    for _ in range(4000):
        i, j = rng.integers(0, 10, 10), rng.integers(10, 20, 10)
        drawn.append(inside[j].sum() / totals[j].sum() / (inside[i].sum() / totals[i].sum()))
    assert kept[1] == pytest.approx(float(np.std(drawn)) * math.sqrt(10 / 9), rel=0.1)


def test_a_fall_within_its_standard_error_refreshes_nothing() -> None:
    noisy = [(0.8, 1.0)] * 10 + [(1.0, 1.0), (0.3, 1.0)] * 5  # 0.65 of 0.8 is 81 %, give or take 15
    assert not ticked(noisy).due()
    assert ticked([(0.8, 1.0)] * 10 + [(0.65, 1.0)] * 10).due()


def test_energies_that_are_not_finite_do_not_count() -> None:
    steps = [(0.8, 1.0), (math.nan, math.inf), (0.0, 0.0)] * 10
    assert ticked(steps + [(0.8, 1.0)] * 10).kept() == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize(("rule", "words"), [({"share": 1.0}, "share 1"), ({"window": 1}, "window")])
def test_rules_that_cannot_be_are_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RetentionRule(**rule)


def turning(steps: int, turn_at: int | None) -> list[int]:
    """Steps of refresh where the gradient's two directions are replaced by two others at a step."""
    model = nn.Linear(12, 12, bias=False).double()
    space = ParameterSpace.trainable(model)
    optimizer = SubspaceOptimizer(torch.optim.SGD(space.tensors, lr=1e-3), MatrixPlanes(2), space, refresh="retention")
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    for step in range(steps):
        kept = q[:, 4:6] if turn_at is not None and step >= turn_at else q[:, :2]
        strong = torch.randn(12, 2, generator=generator, dtype=torch.float64) @ kept.T
        model.weight.grad = strong + 0.1 * torch.randn(12, 12, generator=generator, dtype=torch.float64)
        optimizer.step()
    return optimizer.refreshes


def test_planes_follow_gradients_that_turn_and_stay_where_they_do_not() -> None:
    assert turning(80, None) == []
    (refreshed,) = turning(80, 40)
    assert 40 < refreshed <= 50


def test_a_gradient_that_is_not_finite_makes_no_plane() -> None:
    model = nn.Linear(5, 5, bias=False)
    space = ParameterSpace.trainable(model)
    optimizer = SubspaceOptimizer(torch.optim.SGD(space.tensors, lr=1.0), MatrixPlanes(2), space)
    model.weight.grad = torch.full((5, 5), math.nan)
    with pytest.raises(NonFiniteError, match="NaN"):
        optimizer.step()
    assert bool(torch.isfinite(model.weight).all())


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12))
    return get_peft_model(base, LoraConfig(r=8, target_modules=["0", "2"]))


def test_a_fresh_adapter_trains_in_planes_of_its_factors(tmp_path: Path) -> None:
    """A has no gradient while B = 0: its planes come a step later, and are not made of zeros."""
    from peft import PeftModel

    model = adapted()
    space = ParameterSpace.trainable(model, "lora_factors")
    optimizer = SubspaceOptimizer(
        torch.optim.AdamW(space.tensors, lr=1e-2), MatrixPlanes(3), space, refresh="retention"
    )
    inputs, start = torch.randn(32, 12), [p.detach().clone() for p in space.tensors]
    for step in range(15):
        optimizer.zero_grad()
        (model(inputs) - inputs.roll(1, dims=1)).square().mean().backward()
        optimizer.step()
        moved = {name: bool((p != s).any()) for name, p, s in zip(space.names, space.tensors, start, strict=True)}
        assert all(there == ("lora_B" in name or step > 0) for name, there in moved.items())
    for p, s in zip(space.tensors, start, strict=True):
        assert torch.linalg.matrix_rank(p.detach() - s, rtol=1e-4) == 3
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(adapted().unload(), tmp_path)
    torch.testing.assert_close(again(inputs), model(inputs))


def test_a_recording_says_that_it_knows_no_rule_of_training_in_planes(tmp_path: Path) -> None:
    """In words that fit into its index: settings, and not the weights."""
    model = nn.Linear(40, 40)
    space = ParameterSpace.trainable(model)
    optimizer = SubspaceOptimizer(torch.optim.AdamW(space.tensors), MatrixPlanes(2), space)
    recorder = Recorder(space, tmp_path / "rows", optimizer=optimizer)
    model(torch.ones(1, 40)).sum().backward()
    optimizer.step()
    recorder.append()
    reason = recorder.close().optimizer.reason
    assert "SubspaceOptimizer" in reason
    assert "tensor" not in reason
    assert len(reason) < 600


@pytest.mark.slow
def test_transformers_trainer_trains_in_planes_and_resumes(tmp_path: Path) -> None:
    """With accumulation, clipping, warm-up and checkpoints: what was cut and resumed ends where the whole run ends."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    rows = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in rows]

    def trainer(folder: Path, steps: int) -> Trainer:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))
        space = ParameterSpace.trainable(model)
        optimizer = SubspaceOptimizer(
            torch.optim.AdamW(space.tensors, lr=1e-2), MatrixPlanes(4, skip=("wte", "wpe")), space, refresh=3
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
            save_steps=5,
            seed=0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        return Trainer(model=model, args=arguments, train_dataset=data, optimizers=(optimizer, schedule))

    whole = trainer(tmp_path / "whole", 9)
    whole.train()
    trainer(tmp_path / "cut", 5).train()
    resumed = trainer(tmp_path / "cut", 9)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-5"))
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)
