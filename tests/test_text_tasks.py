"""Users' data beyond labelled statements: completions, running text and choices, from every format, as tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from families import WORDS, arguments, write_family
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForCausalLM

from lineament import cli
from lineament.errors import InputError
from lineament.problems.data_files import read_rows
from lineament.problems.labelled_data import Choice, Completion, Passage, read_contrast, read_labelled
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import IGNORED, SPLITS, Batch, corrupted
from lineament.settings.presets import resolve
from lineament.vectors.gradients import group_gradients

SENTENCES = [f"{i} {WORDS[i % 2]} is {WORDS[i % 3 % 2]} and {WORDS[1]}. " for i in range(900)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "completion": [
        {"prompt": f"{i} {WORDS[i % 2]}", "completion": f" {WORDS[i % 2]} {'apple ' * (i % 4)}"} for i in range(160)
    ],
    "instruction": [{"instruction": f"Repeat {i}", "input": WORDS[i % 2], "output": f"{i}"} for i in range(160)],
    "choice": [
        {"question": f"What is {i}?", "choices": [WORDS[i % 2], WORDS[1 - i % 2], "pear"], "answer": "ABC"[i % 3]}
        for i in range(160)
    ],
    "text": [{"text": "".join(SENTENCES[5 * i : 5 * i + 5])} for i in range(120)],
}  # fmt: skip
KINDS = {"completion": Completion, "instruction": Completion, "choice": Choice, "text": Passage}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("gpt2", tmp_path_factory.mktemp("model") / "gpt2")


@pytest.fixture(scope="module")
def problem_of(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModelProblem]:
    """A problem of each shape, whose adapter is away from B = 0; made once."""
    made: dict[str, LanguageModelProblem] = {}

    def of(shape: str) -> LanguageModelProblem:
        if shape not in made:
            data = write_jsonl(tmp_path_factory.mktemp("data") / f"{shape}.jsonl", ROWS[shape])
            keys = {"model.name": str(model), "task.data": str(data), "task.names": [shape], "task.text_tokens": 12}
            made[shape] = LanguageModelProblem(
                resolve("lm", "quick", [("test", {**keys, "task.evaluation_examples": 12})]), seed=0
            )
            space = made[shape].parameters
            space.write(space.read() + 0.05 * torch.randn(space.n_params, generator=torch.Generator().manual_seed(0)))
        return made[shape]

    return of


every_shape = pytest.mark.parametrize("shape", ROWS)


@every_shape
def test_shapes_are_told_by_their_columns(shape: str, tmp_path: Path) -> None:
    data = read_labelled(write_jsonl(tmp_path / "mine.jsonl", ROWS[shape]))
    assert {type(item) for item in data.items} == {KINDS[shape]}
    with pytest.raises(InputError, match="no two labels"):
        read_contrast(tmp_path / "mine.jsonl")


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    rows = ROWS["completion"]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=50)
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(tmp_path / "splits")
    wanted = read_labelled(tmp_path / "a.jsonl").items
    for source in ("a.json", "a.parquet", "saved", "splits"):
        assert read_labelled(tmp_path / source).items == wanted, source


def test_a_text_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [item.text for item in read_labelled(tmp_path / "a.txt").items] == ["one\ntwo\n"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "completion": ""}, "line 2: 'completion' is ''"),
        ({"prompt": None, "completion": "y"}, "line 2: 'prompt' is None"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "line 2: choices"),
        ({"question": "q", "choices": ["a", "a"], "answer": 0}, "must differ"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "letter from A to B"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "from 0 to 1"),
        ({"text": "  "}, "line 2: 'text' is"),
    ],
)
def test_bad_rows_are_refused_with_their_line(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    shape = "text" if "text" in row else "choice" if "choices" in row else "completion"
    path = write_jsonl(tmp_path / "mine.jsonl", [ROWS[shape][0], row])
    with pytest.raises(InputError, match=words) as caught:
        read_labelled(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("given", "index"), [("B", 1), ("(b)", 1), (1, 1), ("1", 1), ("two", 1), ("a", 0)])
def test_answers_are_letters_numbers_or_texts(given: object, index: int, tmp_path: Path) -> None:
    row = {"question": "q", "choices": ["one", "two"], "answer": given}
    item = read_labelled(write_jsonl(tmp_path / "mine.jsonl", [row])).items[0]
    assert isinstance(item, Choice)
    assert item.answer == index
    lettered = {"question": "q", "A": "one", "B": "two", "answer": given}
    assert read_labelled(write_jsonl(tmp_path / "mine.jsonl", [lettered])).items[0] == item


def test_torn_parquet_and_data_sets_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match="not valid Parquet"):
        read_rows(tmp_path / "torn.parquet")
    # Both libraries read the variable when they are imported.
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE=1"):
        read_rows("hf:nobody/no-such-data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="save_to_disk"):
        read_rows(tmp_path / "empty")


@every_shape
def test_splits_share_no_group(shape: str, problem_of: Callable[[str], LanguageModelProblem]) -> None:
    splits = problem_of(shape).statements(shape)
    parts = {name: getattr(splits, name) for name in (*SPLITS, "train")}
    groups = {name: {example.group for example in part} for name, part in parts.items()}
    assert all(len(parts[name]) == 12 for name in SPLITS)
    assert len(parts["train"]) >= 32
    for one in groups:
        for other in groups:
            assert one == other or not groups[one] & groups[other]


def test_one_long_text_is_divided_in_stretches(model: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(SENTENCES))
    keys = {"model.name": str(model), "task.data": str(tmp_path / "book.txt"), "task.names": ["book"]}
    problem = LanguageModelProblem(resolve("lm", "quick", [("t", {**keys, "task.evaluation_examples": 16})]), seed=0)
    held_out = {example.group for example in problem.statements("book").held_out}
    assert not held_out & {example.group for example in problem.statements("book").train}
    assert max(len(example.group) for example in problem.statements("book").train) < 100  # not the text itself
    notes = " ".join(problem.notes)
    assert "blocks of 64" in notes
    assert "padding" in notes
    assert "no padding token" in notes


@every_shape
def test_loss_and_gradient_equal_those_of_plain_code(
    shape: str, model: Path, problem_of: Callable[[str], LanguageModelProblem]
) -> None:
    """transformers' own loss with labels -100 elsewhere, one row at a time: its mean is over tokens of all rows."""
    problem = problem_of(shape)
    batch = problem.fixed(shape, "evaluation")
    losses = problem.example_losses(batch)
    for i in range(len(batch)):
        n, counted = int(batch.attention_mask[i].sum()), batch.targets[i] != IGNORED
        length = max(n, int(batch.positions[i][counted].max()) + 2)
        ids = functional.pad(batch.input_ids[i, :n], (0, length - n))
        labels = torch.full((length,), IGNORED)
        labels[batch.positions[i][counted] + 1] = batch.targets[i][counted]
        ids[n:] = batch.targets[i, 0] if length > n else ids[n:]
        logits = problem.model(input_ids=ids[None]).logits
        wanted = functional.cross_entropy(logits[0, :-1], labels[1:], ignore_index=IGNORED)
        assert float(losses[i]) == pytest.approx(float(wanted), rel=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad(), problem.parameters.temporarily(torch.zeros(problem.parameters.n_params)):
        row = batch.rows(torch.tensor([0]))
        ids = row.input_ids
        logits = plain(input_ids=ids, attention_mask=row.attention_mask).logits[0]
        counted = row.targets[0] != IGNORED
        wanted = functional.cross_entropy(logits[row.positions[0][counted]], row.targets[0][counted])
        assert float(problem.loss(row)) == pytest.approx(float(wanted), rel=1e-6)


@every_shape
def test_losses_and_gradients_do_not_depend_on_padding_or_on_the_split_of_a_batch(
    shape: str, problem_of: Callable[[str], LanguageModelProblem]
) -> None:
    problem = problem_of(shape)
    batch = problem.fixed(shape, "evaluation")
    wide = Batch(
        functional.pad(batch.input_ids, (0, 3)), functional.pad(batch.attention_mask, (0, 3)),
        functional.pad(batch.positions, (0, 2)), functional.pad(batch.targets, (0, 2), value=IGNORED), batch.choices,
    )  # fmt: skip
    rows = group_gradients(problem, batch).rows
    torch.testing.assert_close(
        group_gradients(problem, wide).rows, rows, rtol=1e-5, atol=1e-5 * float(rows.abs().max())
    )
    parts = torch.cat([group_gradients(problem, part).rows for part in batch.chunks(5)])
    torch.testing.assert_close(parts, rows, rtol=1e-5, atol=1e-5 * float(rows.abs().max()))
    for i in (0, 7):
        alone = problem.parameters.gradient(problem.loss(batch.rows(torch.tensor([i]))))
        torch.testing.assert_close(rows[i], alone, rtol=1e-4, atol=1e-5 * float(rows.abs().max()))
    whole, split = problem.evaluate(wide), [problem.evaluate(part) for part in batch.chunks(5)]
    n = [part.n_counted for part in batch.chunks(5)]
    assert whole.loss == pytest.approx(np.average([e.loss for e in split], weights=n), rel=1e-5)
    assert whole.accuracy == pytest.approx(np.average([e.accuracy for e in split], weights=n), rel=1e-9)


def test_passes_hold_no_more_logits_than_allowed(problem_of: Callable[[str], LanguageModelProblem]) -> None:
    assert problem_of("choice").chunk == 32
    text = problem_of("text")
    assert text.chunk * text.fixed("text", "evaluation").targets.shape[1] <= 1024


@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    how=st.sampled_from(["wrong", "uniform", "shuffled"]),
    start=st.integers(0, 3),
)
def test_corruption_leaves_places_that_do_not_count(lengths: list[int], how: Any, start: int) -> None:
    generator, width = np.random.default_rng(len(lengths)), max(lengths)
    targets = torch.full((len(lengths), width), IGNORED)
    for row, n in zip(targets, lengths, strict=True):
        row[:n] = torch.from_numpy(generator.integers(start, start + 7, size=n))
    zeros = torch.zeros_like(targets)
    batch = Batch(zeros, zeros + 1, zeros, targets, range(start, start + 7))
    found = corrupted(batch, how, generator, shift=3).targets
    counted = targets != IGNORED
    assert bool((found[~counted] == IGNORED).all())
    inside = found[counted]
    assert bool(((inside >= start) & (inside < start + 7)).all())
    if how == "wrong":
        assert bool((inside == (targets[counted] - start + 3) % 7 + start).all())
    if how == "shuffled":
        assert sorted(inside.tolist()) == sorted(targets[counted].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["completion", "text", "choice"])
def test_the_study_runs_on_every_shape(
    shape: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "mine.jsonl", ROWS[shape])
    changes = {"task.text_tokens": "8", "operating.steps": "10", "recovery.threshold": "0.01"}
    assert cli.main(arguments(model, data, tmp_path / "out", **changes)) == 0, capfd.readouterr().err
    records = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert {claim["task"] for claim in records["claims"]} == {"mine"}
    assert "padding token" in (tmp_path / "out" / "log.txt").read_text()


def test_steering_needs_two_labels(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "mine.jsonl", ROWS["text"])
    assert cli.main(arguments(model, data, tmp_path / "out", "--measure", "steering")) == 2
    assert "no two labels" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_long_rows_are_named_with_their_line(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS["completion"], {"prompt": "very " * 80, "completion": "long"}]
    data = write_jsonl(tmp_path / "mine.jsonl", rows)
    assert cli.main(arguments(model, data, tmp_path / "out")) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert "mine.jsonl, line 161: an example has" in error
    assert "takes at most 64" in error
