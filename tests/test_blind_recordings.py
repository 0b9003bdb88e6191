"""Recordings know their optimizer and stand beside a blind run of it, which real blind runs must equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lineament import cli
from lineament.claims.advice import advise, remarks
from lineament.errors import InputError
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.options import AnalysisOptions
from lineament.parameters import ParameterSpace
from lineament.records import Quantity, Record
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.stated_optimizer import StatedOptimizer
from lineament.vectors.recording.writer import Recorder

OPTIONS = AnalysisOptions(window=6, plane_rank=2, draws=5)
N_STEPS = 40
Maker = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Factors(nn.Module):
    """One adapted weight as PEFT names it, without its base."""

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(d_in, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, d_out, bias=False)})
        self.scaling = {"default": 2.0}
        nn.init.normal_(self.lora_A["default"].weight, std=0.05, generator=generator)
        nn.init.zeros_(self.lora_B["default"].weight)


def adapter() -> nn.Module:
    return nn.ModuleDict({"one": Factors(120, 90, 8), "two": Factors(60, 150, 8)})


def blind_training(
    module: nn.Module, folder: Path, make: Maker, n_steps: int = N_STEPS, schedule: bool = True, **options: object
) -> Trajectory:
    """A training whose gradients are noise, with a step size that rises from 0 and ends at 0."""
    kind = "lora_factors" if "lora" in next(iter(dict(module.named_parameters()))) else "full"
    space = ParameterSpace.trainable(module, kind)  # type: ignore[arg-type]
    optimizer = make(list(space.tensors))
    rising = None
    if schedule:
        shares = torch.optim.lr_scheduler.LambdaLR
        rising = shares(optimizer, lambda step: min(step / 5, (n_steps - 1 - step) / 20, 1.0))
    recorder = Recorder(space, folder, optimizer=optimizer, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for step in range(n_steps):
        for parameter in space.tensors:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        if rising is not None and step % 2:  # before or after the row is taken: the optimizer's own is noted
            rising.step()
        recorder.append()
        if rising is not None and not step % 2:
            rising.step()
    return recorder.close()


def wide() -> nn.Module:
    module = nn.Linear(300, 100, bias=False)
    nn.init.normal_(module.weight, std=0.05, generator=torch.Generator().manual_seed(2))
    return module


OPTIMIZERS: dict[str, Maker] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.8, 0.99)),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


def compared(record: Record) -> list[Quantity]:
    """Figures with a blind value, but for the strongest directions: of equally long updates each run draws others."""
    both = [figure for figure in record.quantities if figure.value is not None and figure.blind is not None]
    return [figure for figure in both if figure.labels.get("basis") != "trajectory_top"]


def assert_blind(figure: Quantity, room: float = 0.04, steps: float = 1.0) -> None:
    """The recorded figure is that of a blind run; a fraction within `room`, a rank within twice that share."""
    assert figure.value is not None
    assert figure.blind is not None
    allowed = {"steps": steps, "directions": 2 * room * figure.value}.get(figure.unit, room)
    assert abs(figure.value - figure.blind) <= allowed, figure


def test_a_real_blind_run_has_its_own_blind_values(tmp_path: Path) -> None:
    for name, make in OPTIMIZERS.items():
        recording = blind_training(wide(), tmp_path / name, make)
        record = analyze_recording(recording, "noise", 0, OPTIONS)
        names = {figure.name for figure in compared(record)}
        assert {"capture", "steps_to_span", "task_vector_cosine", "direction_cosine", "run_rank"} <= names
        for figure in compared(record):
            assert_blind(figure)


def test_sums_of_several_updates_are_compared_with_sums(tmp_path: Path) -> None:
    recording = blind_training(wide(), tmp_path / "rows", OPTIMIZERS["adamw"], every=4)
    record = analyze_recording(recording, "noise", 0, OPTIONS)
    for figure in compared(record):
        assert_blind(figure, steps=4.0)
    prefix = next(record.select("capture", basis="prefix", rank=2, definition="whole"))
    assert prefix.blind is not None
    assert prefix.blind > prefix.null + 0.05  # type: ignore[operator]


def test_adapters_have_blind_values_in_dw(tmp_path: Path) -> None:
    record = analyze_recording(blind_training(adapter(), tmp_path / "rows", OPTIMIZERS["adam"]), "noise", 0, OPTIONS)
    effective = [f for f in compared(record) if f.labels.get("space_of") == "lora_effective"]
    ranks = [f for f in compared(record) if f.name == "mean_module_rank"]
    assert len(effective) > 20
    assert len(ranks) == 3
    for figure in [*effective, *ranks]:
        assert_blind(figure, room=0.06, steps=2.0)


def test_a_run_with_a_direction_is_far_from_blind(tmp_path: Path) -> None:
    module = wide()
    space = ParameterSpace.trainable(module)
    optimizer = torch.optim.AdamW(space.tensors, lr=1e-3, weight_decay=0.0)
    recorder = Recorder(space, tmp_path / "rows", optimizer=optimizer)
    generator = torch.Generator().manual_seed(0)
    pull = torch.randn(space.tensors[0].shape, generator=generator)
    for _ in range(N_STEPS):
        space.tensors[0].grad = pull + 0.5 * torch.randn(pull.shape, generator=generator)
        optimizer.step()
        recorder.append()
    record = analyze_recording(recorder.close(), "signal", 0, OPTIONS)
    rest = next(record.select("capture", basis="prefix", rank=5, definition="rest", space_of="parameters"))
    assert rest.value is not None
    assert rest.blind is not None
    assert rest.value - rest.blind > 0.4


def test_updates_of_zero_are_not_counted_and_are_named(tmp_path: Path) -> None:
    """transformers warms up from 0, so that the first update is exactly zero; a schedule that ends at 0 ends alike."""
    recording = blind_training(wide(), tmp_path / "rows", OPTIMIZERS["sgd"])
    sizes = recording.optimizer.groups[0].rule.step_sizes
    assert (sizes[0], sizes[1], sizes[N_STEPS - 1]) == (0.0, pytest.approx(2e-3), 0.0)
    record = analyze_recording(recording, "noise", 0, OPTIONS)
    zero = next(record.select("recorded", what="zero updates"))
    assert (zero.value, zero.reason) == (2, "left out: rows 1, 40")
    prefix = next(record.select("capture", basis="prefix", rank=10, definition="whole"))
    assert prefix.null == pytest.approx(10 / 38)
    assert prefix.value == pytest.approx(prefix.blind, abs=0.01)
    half = next(record.select("steps_to_span", basis="prefix", share=0.5))
    assert half.null == 20  # 19 of 38 updates, the first of which was made at step 2
    assert any("rows 1, 40" in remark for remark in remarks([record]))


def test_identical_checkpoints_and_rows_that_are_all_zero(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 moved the weights"):
        still = Recorder(ParameterSpace.trainable(module := wide()), tmp_path / "rows")
        for size in (0.0, 0.1, 0.0):
            with torch.no_grad():
                module.weight.add_(size)  # type: ignore[operator, union-attr]
            still.append()
        analyze_recording(still.close(), "still", 0, OPTIONS)


def test_steps_that_the_optimizer_did_not_make_are_told_apart(tmp_path: Path) -> None:
    """Mixed precision skips the optimizer where gradients overflow; a skipped step leaves Adam's moments alone."""
    module = wide()
    space = ParameterSpace.trainable(module)
    optimizer = torch.optim.Adam(space.tensors, lr=1e-3)
    recorder = Recorder(space, tmp_path / "rows", optimizer=optimizer)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        if step not in (0, 1, 7):
            space.tensors[0].grad = torch.randn(space.tensors[0].shape, generator=generator)
            optimizer.step()
        recorder.append()
    recording = recorder.close()
    assert recording.optimizer.skipped == (1, 2, 8)
    record = analyze_recording(recording, "skipping", 0, OPTIONS)
    for figure in compared(record):
        if figure.name == "capture":
            assert figure.value == pytest.approx(figure.blind, abs=0.04)


def test_a_recording_that_goes_on_keeps_its_step_sizes(tmp_path: Path) -> None:
    module = wide()
    space = ParameterSpace.trainable(module)
    optimizer = torch.optim.SGD(space.tensors, lr=0.5)
    recorder = Recorder(space, tmp_path / "rows", optimizer=optimizer)
    for size in (0.5, 0.4, 0.3):
        optimizer.param_groups[0]["lr"] = size
        space.tensors[0].grad = torch.ones(space.tensors[0].shape)
        optimizer.step()
        recorder.append()
    recorder.flush()
    space.write(Trajectory(tmp_path / "rows").position(2).float())
    again = Recorder.resume(space, tmp_path / "rows", at_step=2, optimizer=optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    again.append()
    assert again.close().optimizer.groups[0].rule.step_sizes == (0.5, 0.4, 0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "Adam without weight decay"),
        (lambda p: torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "copies of the recorded"),
    ],
)
def test_optimizers_that_are_not_known_leave_the_reason(tmp_path: Path, make: Maker, words: str) -> None:
    recording = blind_training(wide(), tmp_path / "rows", make, n_steps=8, schedule=False)
    assert words in recording.optimizer.reason
    record = analyze_recording(
        recording if "copies" not in words else shifted(tmp_path / "shifted", recording), "unknown", 0, OPTIONS
    )
    blind = next(record.select("blind_run"))
    assert (blind.value, words in (blind.reason or "")) == (None, True)
    assert not [figure for figure in record.quantities if figure.blind is not None]
    assert any(remark.startswith("No blind values") for remark in remarks([record]))


def shifted(folder: Path, recording: Trajectory) -> Trajectory:
    """The same optimizer as known, with rows that moved."""
    space = ParameterSpace.trainable(module := wide())
    recorder = Recorder(space, folder, optimizer=recording.optimizer)
    for step in range(8):
        with torch.no_grad():
            module.weight[step] += 1.0  # type: ignore[index]
        recorder.append()
    return recorder.close()


def test_groups_with_other_settings_are_weighed_by_their_parameters(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 200, bias=False))

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": parameters[:1], "momentum": 0.9}, {"params": parameters[1:], "momentum": 0.0, "lr": 0.03}]
        return torch.optim.SGD(groups, lr=0.01)

    recording = blind_training(module, tmp_path / "rows", make)
    assert [(g.n_params, g.rule.momentum) for g in recording.optimizer.groups] == [(10_000, 0.9), (20_000, 0.0)]
    record = analyze_recording(recording, "groups", 0, OPTIONS)
    for figure in compared(record):
        assert_blind(figure)


def test_recordings_of_earlier_versions_are_read_and_say_what_is_missing(tmp_path: Path) -> None:
    recording = blind_training(wide(), tmp_path / "rows", OPTIMIZERS["sgd"], n_steps=12, schedule=False)
    index = tmp_path / "rows" / "index.json"
    body = json.loads(index.read_text())
    del body["optimizer"]
    index.write_text(json.dumps(body))
    again = Trajectory(tmp_path / "rows")
    assert not again.optimizer.known
    record = analyze_recording(again, "old", 0, OPTIONS)
    assert "--optimizer" in next(record.select("blind_run")).reason  # type: ignore[operator]
    keep = ("kind", "n_params", "layout", "n_steps", "rows_per_file")
    index.write_text(json.dumps({"schema": 1, **{key: body[key] for key in keep}}))
    oldest = Trajectory(tmp_path / "rows")
    assert analyze_recording(oldest, "older", 0, OPTIONS).value("capture", basis="prefix", rank=5, definition="whole")
    stated = AnalysisOptions(window=6, plane_rank=2, optimizer=StatedOptimizer(optimizer="sgd"))
    told = analyze_recording(oldest, "told", 0, stated)
    prefix = next(told.select("capture", basis="prefix", rank=5, definition="whole"))
    assert prefix.blind == pytest.approx(5 / 12)
    assert recording.optimizer.known


def test_a_schedule_is_stated_as_transformers_has_it() -> None:
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.2)
        schedule, sizes = make(optimizer, 5, 30), []
        for _ in range(30):
            sizes.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        stated = StatedOptimizer(optimizer="sgd", lr=0.2, schedule=name, warmup_steps=5)  # type: ignore[arg-type]
        np.testing.assert_allclose(stated.step_sizes(30), sizes, atol=1e-12)
    assert StatedOptimizer(optimizer="sgd", lr=0.2).step_sizes(30) == (0.2,)


def checkpoints(folder: Path, steps: list[int], make: Maker) -> None:
    """Whole models saved at these steps of a training on noise."""
    module, generator = wide(), torch.Generator().manual_seed(0)
    optimizer = make(list(module.parameters()))
    for step in range(max(steps) + 1):
        if step in steps:
            place = folder / f"checkpoint-{step}"
            place.mkdir(parents=True)
            save_file({"weight": module.weight.detach().clone()}, place / "model.safetensors")  # type: ignore[operator, union-attr]
        module.weight.grad = torch.randn(module.weight.shape, generator=generator)  # type: ignore[union-attr, arg-type]
        optimizer.step()


def test_checkpoints_are_told_their_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints(tmp_path / "saved", list(range(10, 131, 10)), lambda p: torch.optim.Adam(p, lr=1e-3))
    arguments = ["record-from-checkpoints", str(tmp_path / "saved"), "--out", str(tmp_path / "rows"), "--quiet"]
    assert cli.main([*arguments, "--optimizer", "adamw", "--lr", "1e-3"]) == 0
    recording = Trajectory(tmp_path / "rows")
    assert recording.first_step == 10
    record = analyze_recording(recording, "grid", 0, OPTIONS)
    for figure in compared(record):
        if figure.name in ("capture", "task_vector_cosine"):
            assert figure.value == pytest.approx(figure.blind, abs=0.04), figure
    capsys.readouterr()
    assert cli.main(["advise", str(tmp_path / "rows"), "--quiet", "--window", "4", "--plane-rank", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Blind: a run of the same optimizer (adamw, beta1 0.9, step size 0.001)" in " ".join(printed.split())
    assert cli.main(["advise", str(tmp_path / "rows"), "--quiet", "--json", "--optimizer", "sgd"]) == 0
    lines = json.loads(capsys.readouterr().out)
    spans = [line for line in lines if line["figure"].startswith("steps_to_span")]
    assert spans
    assert all(line["blind"] == line["null"] for line in spans if "prefix" in line["figure"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--optimizer", "adamw", "--momentum", "1"], "--momentum must be at least 0 and below 1; got 1.0"),
        (["--optimizer", "adamw", "--lr", "0"], "--lr must be above 0; got 0.0"),
        (["--optimizer", "sgd", "--lr", "nan"], "--lr must be finite; got nan"),
        (["--optimizer", "sgd", "--warmup-steps", "-1"], "--warmup-steps must be at least 0; got -1"),
        (["--optimizer", "sgd", "--schedule-steps", "5", "--warmup-steps", "5"], "schedule_steps is 5"),
    ],
)
def test_optimizers_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    blind_training(wide(), tmp_path / "rows", OPTIMIZERS["sgd"], n_steps=4, schedule=False)
    assert cli.main(["analyze", str(tmp_path / "rows"), "--quiet", *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "rows" / "analysis").exists()


def test_a_stated_step_size_of_zero_where_weights_moved_gives_no_blind_value(tmp_path: Path) -> None:
    recording = blind_training(wide(), tmp_path / "rows", OPTIMIZERS["sgd"], n_steps=12, schedule=False)
    stated = StatedOptimizer(optimizer="sgd", warmup_steps=4)
    record = analyze_recording(recording, "wrong", 0, AnalysisOptions(window=4, plane_rank=1, optimizer=stated))
    assert "step size is 0 at rows that moved" in next(record.select("blind_run")).reason  # type: ignore[operator]
    assert advise([record])
