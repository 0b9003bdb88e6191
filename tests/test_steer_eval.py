"""`lineament steer eval` on a small model: what is compared and said, the layer sweep, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import lineament_here
from families import write_family
from test_conversations import write
from test_steer_judging import noise_judge

from lineament.commands.steer.bench import judge_of
from lineament.commands.steer.effect_words import null_text
from lineament.commands.steer.flags import ModelFlags
from lineament.commands.steer.model import SteeredModel, Wording
from lineament.problems.labelled_data import Pair
from lineament.problems.statements import Statement
from lineament.steering.effects import NeutralText
from lineament.steering.judging import Effect
from lineament.steering.steered import steered
from lineament.steering.vector import load_vector

KINDS = ("apple", "stone")
SHORT = ("--tokens", "3", "--threads", "1")
QUICK = ("--neutral", "2", "--no-collateral", "--random", "2", "--threads", "1")


def texts(numbers: range) -> list[dict[str, Any]]:
    return [{"statement": f"{i} {KINDS[i % 2]} {KINDS[i % 2]}", "label": i % 2 == 0} for i in numbers]


def pairs(numbers: range) -> list[dict[str, Any]]:
    return [{"question": f"{i}?", "matching": "apple apple", "not_matching": "stone stone"} for i in numbers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, texts in two styles, and a vector of them."""
    made = tmp_path_factory.mktemp("eval")
    write_family("gpt2", made / "gpt2")
    write(made / "styles.jsonl", *texts(range(16)))
    write(made / "held.jsonl", *texts(range(20, 36)))
    write(made / "pairs.jsonl", *pairs(range(40, 48)))
    for name, template in (("style", "{statement}"), ("asked", "{statement} Answer:")):
        done = steer(made, "make", "styles.jsonl", "--out", f"{name}.safetensors", "--template", template)
        assert done.returncode == 0, done.stderr
    return made


def steer(folder: Path, action: str, *words: object) -> Any:
    return lineament_here("steer", action, "--model", "./gpt2", *map(str, words), cwd=folder)


def said(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def rows_of(done: Any) -> dict[str, list[str]]:
    """Lines of the table by their first cell."""
    lines = done.stdout.partition("───")[2].partition("\n")[2].partition("\n   ")[0].splitlines()
    return {line.split()[0]: line.split() for line in lines if line.strip()}


def test_texts_of_two_styles_are_judged_by_their_likelihood(folder: Path) -> None:
    done = steer(folder, "eval", "style.safetensors", "held.jsonl", "--doses", "1,4", "--layer", "1", *QUICK)
    text = said(done)
    assert "Compared (continuations): log-likelihood of the texts themselves" in text
    assert "change of the 8 positive texts minus that of the 8 negative ones" in text
    assert "True" not in text
    assert "log-likelihood without the vector: positive texts -" in text
    rows = {
        line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["0"], ["1"], ["4"])
    }
    assert rows["0"][1:4] == ["+0.000", "+0.000", "+0.000"]
    assert float(rows["4"][3]) > float(rows["1"][3]) > 0, "the vector makes its own texts likelier than the others"
    plus, minus, both = (float(cell) for cell in rows["4"][1:4])
    assert both == pytest.approx(plus - minus, abs=0.0011)
    assert "at a KL of 0.0" in text
    assert "positive over negative texts +" in text
    assert "2 random directions of the same KL: at most" in text
    assert "--layers all" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_answers_are_judged_as_such_and_a_prompt_that_asks_nothing_is_named(folder: Path) -> None:
    common = ("held.jsonl", "--doses", "1", "--layer", "1", *QUICK)
    asked = said(steer(folder, "eval", "asked.safetensors", *common))
    assert "logit of ' True' minus that of ' False' after the prompt '{statement} Answer:'" in asked
    assert "asks nothing" not in asked
    assert "most frequent answer" in asked
    forced = said(steer(folder, "eval", "style.safetensors", *common, "--judge", "answers"))
    assert "This prompt asks nothing that could be true or false: --judge continuations" in forced


def test_answers_of_several_words_are_judged_by_their_likelihood(folder: Path) -> None:
    text = said(steer(folder, "eval", "style.safetensors", "pairs.jsonl", "--doses", "1", "--layer", "1", *QUICK))
    assert "log-likelihood of both answers to each question" in text
    assert "8 positive texts minus that of the 8 negative" in text
    forced = said(
        steer(folder, "eval", "style.safetensors", "pairs.jsonl", "--judge", "answers", "--layer", "1", *QUICK)
    )
    assert "first token at which they differ" in forced


@pytest.mark.parametrize(
    ("items", "wording", "expected"),
    [
        ([Statement("a", True, "a")], Wording(), "answers"),
        ([Statement("a", True, "a")], Wording("{statement}"), "continuations"),
        ([Statement("a", True, "a")], Wording("So: {statement} "), "continuations"),
        ([Statement("a", True, "a")], Wording("", chat=True), "answers"),
        ([Statement("a", True, "a")], Wording("{statement}", chat=True), "continuations"),
        ([Pair("q", "(A)", "(B)", "q")], Wording(), "answers"),
        ([Pair("q", "Yes, I do.", "No.", "q")], Wording(), "continuations"),
        ([Pair("q", "Yes, I do.", "No.", "q"), Pair("r", "Yes", "No", "r")], Wording(), "answers"),
    ],
)
def test_the_judge_fits_the_data(items: list[Any], wording: Wording, expected: str) -> None:
    assert judge_of(items, wording) == expected


@pytest.mark.parametrize(
    ("value", "null", "words"),
    [
        (0.5, (0.1, -0.4), "2 random directions of the same KL: at most 0.400 in size, so the vector does more than"),
        (0.3, (0.1, -0.4), "so the vector does no more than chance does."),
        (-0.3, (0.1,), "1 random direction of the same KL: at most 0.100 in size, so the vector does more than all"),
        (-0.3, (0.1,), "but away from the positive class."),
        (0.3, (float("nan"), 0.1), "1 random direction of"),
        (0.3, (float("nan"),), "No random direction reaches that KL."),
        (0.3, (), "No random direction stands beside it."),
    ],
)
def test_an_effect_is_set_beside_chance_by_its_size(value: float, null: tuple[float, ...], words: str) -> None:
    effect = Effect(value, 0.1, value - 0.2, value + 0.2, 8)
    assert words in null_text(noise_judge(0, 1), effect, null)


def test_layers_are_compared_and_the_best_is_measured_on_the_other_half(folder: Path) -> None:
    done = steer(folder, "eval", "style.safetensors", "held.jsonl", "--layers", "all", *QUICK)
    text = said(done)
    effects = {layer: float(row[-3]) for layer, row in rows_of(done).items()}
    assert list(effects) == ["1", "2"]
    best = max(effects, key=lambda layer: effects[layer])
    assert f"Best layer: {best}, chosen on that half" in text
    assert "8 rows of one half" in text
    assert "On the other 8 rows, which had no say, at a KL of 0.05: positive over negative texts" in text
    assert "2 random directions of the same KL" in text
    assert f"--layer {best}" in done.stderr
    assert "loading ./gpt2" in done.stderr
    assert f"layer {best} on the other half of the rows" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_text_is_written_at_the_strength_of_a_kl(folder: Path) -> None:
    """Together at both layers the vector must be weaker than at one of them alone."""
    found = {}
    for layers in ("1", "1-2"):
        done = steer(folder, "generate", "style.safetensors", "1 apple", "--kl", "0.05", "--layers", layers, *SHORT)
        found[layers] = float(said(done).partition("steered (")[2].partition(")")[0])
    assert found["1-2"] < found["1"]
    flags = ModelFlags(model=str(folder / "gpt2"), threads=1)
    loaded = SteeredModel(flags)
    neutral = NeutralText(loaded.problem, loaded.problem.neutral("", 32))
    with steered(loaded.model, load_vector(folder / "style.safetensors"), found["1-2"]):
        assert neutral.kl() == pytest.approx(0.05, rel=0.03)
    one = steer(folder, "generate", "style.safetensors", "1 apple", *SHORT)
    assert "steered (1)" in one.stdout
    for words, message in (
        (("--kl", "0.05", "--coefficient", "2"), "leave --coefficient out"),
        (("--kl", "1e9"), "--kl 1e+09 is unreachable"),
        (("--kl", "-1"), "--kl"),
        (("--layer", "1", "--layers", "1-2"), "--layer and --layers were given"),
        (("--layers", "1-9"), "no layer 3"),
    ):
        done = steer(folder, "generate", "style.safetensors", "1 apple", *words, *SHORT)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layers", "2"), "--layers 2 is one layer; give several, or --layer 2"),
        (("--layers", "1,7"), "no layer 7; choose among 1, 2"),
        (("--layers", "x"), "--layers 'x'"),
        (("--layers", "all", "--layer", "1"), "leave --layer and --doses out"),
        (("--layers", "all", "--doses", "1"), "leave --layer and --doses out"),
        (("--judge", "style"), "one of auto, answers, continuations"),
        (("--random", "-1"), "--random"),
    ],
)
def test_bad_sweeps_are_one_message(words: tuple[str, ...], message: str, folder: Path) -> None:
    done = steer(folder, "eval", "style.safetensors", "held.jsonl", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]


def test_a_sweep_needs_several_layers_and_rows(folder: Path) -> None:
    assert steer(folder, "make", "styles.jsonl", "--out", "one.safetensors", "--layers", "2").returncode == 0
    done = steer(folder, "eval", "one.safetensors", "held.jsonl", "--layers", "all")
    assert done.returncode == 2
    assert "has layer 2 only, so there is nothing to compare" in done.stderr
    write(folder / "few.jsonl", *texts(range(50, 56)))
    done = steer(folder, "eval", "style.safetensors", "few.jsonl", "--layers", "all", *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    assert "at least 4 are needed" in done.stderr
