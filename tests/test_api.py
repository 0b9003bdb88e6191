"""`lineament.measure`: what comes out, what comes back as it was, and which folders it refuses."""

from __future__ import annotations

import copy
import fcntl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lineament
from lineament.api import measure
from lineament.errors import InputError
from lineament.measurements import gradient_rank
from lineament.problems.problem import Batch
from lineament.settings.training import DamageSettings
from lineament.study import study

N_DIGITS = 8
TASKS = {"maximum": N_DIGITS, "minimum": N_DIGITS + 1}
SMALL: dict[str, Any] = {
    "measure": ["gradient_rank"],
    "task.evaluation_examples": 40,
    "lora.rank": 2,
    "operating.steps": 12,
    "damage.steps": 30,
    "damage.lr": 3e-3,
    "recovery.steps": 30,
    "recovery.lr": 2e-3,
    "measurement.ranks": [1, 2],
    "measurement.headline_rank": 2,
    "measurement.gradients": 8,
    "measurement.curvature_batch": 8,
    "measurement.drift_gradients": 16,
    "measurement.drift_rank": 2,
    "measurement.lanczos_steps": 4,
    "measurement.task_vector_steps": 2,
    "measurement.inside_steps": 3,
}


class Tiny(nn.Module):
    """Reads a task token and two digits; the logits at every position are the answer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_DIGITS + len(TASKS), 16)
        self.hidden = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(48, N_DIGITS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = self.head(self.hidden(self.embedding(input_ids).flatten(1)))
        return logits[:, None].expand(-1, input_ids.shape[1], -1)


def examples(task: str, n: int, seed: int = 0) -> Batch:
    digits = torch.randint(N_DIGITS, (n, 2), generator=torch.Generator().manual_seed(seed))
    answers = (digits.amax if task == "maximum" else digits.amin)(dim=1, keepdim=True)
    ids = torch.cat([torch.full((n, 1), TASKS[task]), digits], dim=1)
    return Batch(ids, torch.ones_like(ids), torch.full((n, 1), 2), answers, tuple(range(N_DIGITS)))


def data(n: int = 200, seed: int = 0) -> dict[str, Batch]:
    return {task: examples(task, n, seed) for task in TASKS}


@pytest.fixture(scope="module")
def trained() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tiny()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(200):
            batch = Batch.join([examples(task, 64, step) for task in TASKS])
            loss = functional.cross_entropy(model(batch.input_ids)[:, 2], batch.targets[:, 0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return model


@pytest.fixture
def model(trained: Tiny) -> Tiny:
    return copy.deepcopy(trained)


def test_one_seed_gives_figures_but_decides_nothing_and_three_give_intervals(model: Tiny) -> None:
    every = {**SMALL, "measure": ["gradient_rank", "basis_capture", "basis_drift"]}
    one = measure(model, data(), target="minimum", settings=every)
    assert [(r.measurement, r.target, r.seed) for r in one.records] == [(m, "minimum", 0) for m in every["measure"]]
    assert {record.space for record in one.records} == {"lora_factors"}
    assert {"gradient_low_rank", "prefix_captures", "basis_drifts"} <= {claim.id for claim in one.claims}
    for claim in one.claims:
        assert (claim.verdict, claim.reason, claim.low, claim.high) == ("inconclusive", "one seed", None, None)
        assert claim.measured is not None
    three = measure(model, data(), target="minimum", settings=SMALL, seeds=3)
    assert [r.seed for r in three.records] == [0, 1, 2]
    assert three.records[0] == one.records[0]
    assert all(claim.low is not None for claim in three.claims)


def test_the_first_task_is_the_default_target_and_full_weights_are_a_space(model: Tiny) -> None:
    (record,) = measure(model, data(), settings={**SMALL, "recovery.space": "full"}).records
    assert (record.target, record.space) == ("maximum", "full")
    assert record.n_params == sum(p.numel() for p in model.parameters())
    assert lineament.measure is measure


def as_it_is(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that somebody might have set."""
    found: dict[str, Any] = {"random state": torch.get_rng_state().tolist()}
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in module.__dict__.items() if key.endswith("hooks")}
        found[f"{name} is"] = (type(module), id(module), module.training, sorted(module.__dict__), hooks)
    for name, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.tolist()
        found[name] = (id(parameter), parameter.tolist(), parameter.requires_grad, gradient)
    return found


class Broken(Exception):
    """Raised in the middle of measuring."""


@pytest.mark.parametrize("space", ["lora", "full"])
@pytest.mark.parametrize("broken", ["never", "measuring", "training", "the input"])
def test_the_model_comes_back_as_it_was(space: str, broken: str, model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model.train()
    model.hidden[2].eval()
    model.head.bias.requires_grad_(False)
    functional.cross_entropy(model(data()["maximum"].input_ids)[:, 2], data()["maximum"].targets[:, 0]).backward()
    model.embedding.weight.grad = None
    before = as_it_is(model)

    def fail(*arguments: object) -> None:
        torch.rand(1)
        raise Broken

    if broken == "measuring":
        monkeypatch.setattr(gradient_rank, "MEASUREMENT", replace(gradient_rank.MEASUREMENT, measure=fail))
    if broken == "training":
        monkeypatch.setattr("lineament.study.study.Recorder.append", fail)
    given = data(n=10 if broken == "the input" else 200)
    settings = {**SMALL, "recovery.space": space}
    if broken == "never":
        measure(model, given, settings=settings)
    else:
        with pytest.raises((Broken, InputError)):
            measure(model, given, settings=settings)
    after = as_it_is(model)
    assert after.keys() == before.keys()
    assert [key for key in before if before[key] != after[key]] == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_stages_are_used_again_and_more_seeds_and_targets_extend(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(model, data(), settings=SMALL, out=tmp_path)
    (tmp_path / "stages" / ".tmp-lineament-abcd0123.tmp").write_text("{")
    damaged: list[str] = []
    damage = study.damage

    def counted(problem: Any, target: str, settings: DamageSettings, *rest: Any) -> None:
        damaged.append(target)
        damage(problem, target, settings, *rest)

    monkeypatch.setattr(study, "damage", counted)
    assert measure(model, data(), settings=SMALL, out=str(tmp_path)).records == first.records
    assert damaged == []
    assert not (tmp_path / "stages" / ".tmp-lineament-abcd0123.tmp").exists()
    more = measure(model, data(), settings=SMALL, out=tmp_path, seeds=2)
    assert more.records[:1] == first.records
    measure(model, data(), settings=SMALL, out=tmp_path, target="minimum")
    assert damaged == ["maximum", "minimum"]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("weights", ["model", "Tiny with weights"]),
        ("buffers", ["model", "Tiny with weights"]),
        ("examples", ["examples.minimum"]),
        ("order", ["tasks", "['minimum', 'maximum']"]),
        ("settings", ["settings.damage.lr", "0.003 there", "0.002 now"]),
    ],
)
def test_stages_of_something_else_are_refused_by_name(what: str, named: list[str], model: Tiny, tmp_path: Path) -> None:
    model.register_buffer("unused", torch.zeros(()))
    measure(model, data(), settings=SMALL, out=tmp_path)
    before, given, settings = contents(tmp_path), data(), dict(SMALL)
    if what == "weights":
        model.head.weight.data[0, 0] += 1e-6
    if what == "buffers":
        model.unused += 1
    if what == "examples":
        given["minimum"] = examples("minimum", 200, seed=1)
    if what == "order":
        given = dict(reversed(given.items()))
    if what == "settings":
        settings["damage.lr"] = 2e-3
    with pytest.raises(InputError, match="stages of another measurement") as caught:
        measure(model, given, target="maximum", settings=settings, out=tmp_path)
    for word in named:
        assert word in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "lock", "config.toml", "stages/operating-seed0.safetensors"])
def test_a_folder_that_is_not_its_own_stays_as_it_was(name: str, model: Tiny, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="Choose another out"):
        measure(model, data(), settings=SMALL, out=tmp_path)
    with pytest.raises(InputError, match="is a file"):
        measure(model, data(), settings=SMALL, out=tmp_path / name)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_second_writer_is_refused(model: Tiny, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            measure(model, data(), settings=SMALL, out=tmp_path)


def test_input_that_fails_claims_no_folder(model: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 100 examples"):
        measure(model, data(n=100), settings=SMALL, out=tmp_path)
    measure(model, data(n=160), settings=SMALL, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "maximun"}, "Did you mean 'maximum'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"settings": {"measurement.ranks": []}}, r"measurement\.ranks is \(empty\)"),
        ({"settings": {"measurement.gradients": 1}}, r"measurement\.gradients is 1"),
        ({"settings": {"measure": ["gradient_rnk"]}}, "Did you mean 'gradient_rank'"),
        ({"settings": {"recovery.learning": 1}}, "no settings key"),
        ({"settings": {"lora.targets": ["q_proj"]}}, "q_proj"),
        ({"data": {}}, "data names no task"),
    ],
)
def test_bad_input_is_refused(changes: Mapping[str, Any], words: str, model: Tiny, tmp_path: Path) -> None:
    given = {"data": data(), **changes}
    given["settings"] = {**SMALL, **changes.get("settings", {})}
    with pytest.raises(InputError, match=words):
        measure(model, **given, out=tmp_path / "out")
    assert not (tmp_path / "out" / "stages").exists()
