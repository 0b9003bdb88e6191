"""What a vector's effect is: errors against scipy's tests, likelihoods against plain passes, halves, coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import write_family
from scipy import stats
from test_conversations import CHATML, encoder

from lineament.errors import InputError
from lineament.problems.labelled_data import Pair
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import IGNORED, Batch
from lineament.problems.statements import Statement
from lineament.settings.presets import resolve
from lineament.steering import effects, layer_sweep
from lineament.steering.effects import Calibration, calibrate_near
from lineament.steering.judging import ContinuationJudge, Judge, effect_of, halves_of
from lineament.steering.layer_sweep import AtBudget, sweep_layers, sweep_steps
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector
from lineament.streams import Streams

GENERATOR = np.random.default_rng(0)


def numbers(n: int) -> torch.Tensor:
    return torch.arange(n)


def test_the_error_of_a_mean_is_scipy_s() -> None:
    x = GENERATOR.normal(1.0, 2.0, 12)
    found = effect_of(torch.from_numpy(x), None, numbers(12))
    expected = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    assert (found.value, found.n_groups) == (pytest.approx(x.mean()), 12)
    assert found.stderr == pytest.approx(stats.sem(x))
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_error_between_classes_is_welch_s_and_of_pairs_that_of_their_differences() -> None:
    plus, minus = GENERATOR.normal(1.0, 2.0, 9), GENERATOR.normal(0.0, 1.0, 14)
    change = torch.from_numpy(np.concatenate([plus, minus]))
    found = effect_of(change, numbers(23) < 9, numbers(23))
    assert found.value == pytest.approx(plus.mean() - minus.mean())
    assert found.stderr == pytest.approx(math.hypot(stats.sem(plus), stats.sem(minus)))
    both = plus + 0.1 * GENERATOR.normal(size=9)
    paired = effect_of(torch.from_numpy(np.concatenate([plus, both])), numbers(18) < 9, numbers(9).repeat(2))
    expected = stats.ttest_rel(plus, both).confidence_interval(0.95)
    assert (paired.low, paired.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    apart = effect_of(torch.from_numpy(np.concatenate([plus, both])), numbers(18) < 9, numbers(18))
    assert apart.stderr > 5 * paired.stderr


def test_rows_of_one_group_count_as_one() -> None:
    x = torch.from_numpy(GENERATOR.normal(size=10))
    once, thrice = effect_of(x, None, numbers(10)), effect_of(x.repeat(3), None, numbers(10).repeat(3))
    assert thrice.stderr == pytest.approx(once.stderr)
    assert thrice.n_groups == 10
    assert math.isnan(effect_of(x, None, torch.zeros(10, dtype=torch.long)).low)
    with pytest.raises(InputError, match="rows of both"):
        effect_of(x, torch.ones(10, dtype=torch.bool), numbers(10))


def test_halves_share_no_group_and_hold_both_classes() -> None:
    positive = torch.tensor([True, False] * 10)
    groups = torch.tensor([i // 2 for i in range(12)] + list(range(6, 14)))
    first, second = halves_of(positive, groups)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(20))
    assert not set(groups[first].tolist()) & set(groups[second].tolist())
    for half in (first, second):
        assert positive[half].sum() == (~positive[half]).sum() == 5
    with pytest.raises(InputError, match="hold 3 negative rows or groups of rows; at least 4"):
        halves_of(torch.tensor([True] * 6 + [False] * 3), numbers(9))
    with pytest.raises(InputError, match="hold 1 positive"):
        halves_of(torch.tensor([True] * 6 + [False] * 6), torch.tensor([0] * 6 + list(range(1, 7))))


@dataclass
class Dial:
    """Stands for a model and neutral text: a KL that is a function of the present coefficient."""

    law: Callable[[float], float]
    now: float = 0.0
    n_asked: int = 0
    model: Any = None

    def kl(self) -> float:
        self.n_asked += 1
        return self.law(self.now)

    @contextmanager
    def steered(self, model: Any, vector: Any, coefficient: float, where: str = "all") -> Iterator[None]:
        self.now = coefficient
        yield


LAWS: dict[str, tuple[Callable[[float], float], int]] = {
    "square": (lambda c: 0.3 * c**2, 3),
    "fourth": (lambda c: 1e-3 * c**4, 5),
    "bends": (lambda c: 0.02 * c**2 / (1 + 0.05 * c**2) + 1e-4 * c**3, 5),
    "steep": (lambda c: math.expm1(min(3 * c, 600.0)) * 1e-4, 30),
    "ends": (lambda c: 0.01 * c**2 if c < 3 else math.inf, 30),
}


@pytest.mark.parametrize("name", list(LAWS))
@pytest.mark.parametrize("start", [0.01, 1.0, 40.0])
def test_the_coefficient_at_a_kl_is_found_in_few_tries(
    name: str, start: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    law, most = LAWS[name]
    dial = Dial(law)
    monkeypatch.setattr(effects, "steered", dial.steered)
    found = calibrate_near(dial, SteeringVector({1: torch.ones(2)}), dial, 0.05, 100.0, start)  # type: ignore[arg-type]
    assert found.coefficient is not None
    assert law(found.coefficient) == pytest.approx(0.05, rel=0.05)
    assert dial.n_asked <= most + (2 if start != 1.0 else 0)


def test_a_kl_that_no_coefficient_reaches_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dial = Dial(lambda c: 0.02 * c**2 / (1 + c**2))
    monkeypatch.setattr(effects, "steered", dial.steered)
    found = calibrate_near(dial, SteeringVector({1: torch.ones(2)}), dial, 0.05, 100.0, 1.0)  # type: ignore[arg-type]
    assert (found.coefficient, found.largest) == (None, 100.0)
    assert found.kl == pytest.approx(0.02, rel=0.01)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelProblem:
    folder = write_family("gpt2", tmp_path_factory.mktemp("judging") / "gpt2")
    keys = {"model.name": str(folder), "recovery.space": "full", "threads": 1}
    return LanguageModelProblem(resolve("lm", "quick", [("test", keys)]), 0, for_study=False)


def own_texts(batch: Batch, made: Any) -> list[str]:
    return [made.tokenizer.decode(row[row != IGNORED]) for row in batch.targets]


def whole_texts(batch: Batch, made: Any) -> list[str]:
    rows = zip(batch.input_ids, batch.attention_mask, strict=True)
    return [made.tokenizer.decode(ids[mask > 0]) for ids, mask in rows]


def test_the_scored_tokens_are_the_text_s_own(problem: LanguageModelProblem) -> None:
    made = encoder(Path(problem.model_name), CHATML)
    rows = [Statement("1 apple stone", True, "a"), Statement("2 stone", False, "b")]
    bare = made.encode_continuations(rows, "{statement}")
    assert whole_texts(bare, made) == ["1 apple stone", "2 stone"]
    assert own_texts(bare, made) == [" apple stone", " stone"], "nothing predicts a first token"
    asked = made.encode_continuations(rows, "So: {statement} Answer:")
    assert whole_texts(asked, made) == ["So: 1 apple stone", "So: 2 stone"]
    assert [text.strip() for text in own_texts(asked, made)] == ["1 apple stone", "2 stone"]
    chat = made.encode_continuations(rows, "{statement}", chat=True)
    assert whole_texts(chat, made) == ["<|user|>1 apple stone", "<|user|>2 stone"]
    assert own_texts(chat, made) == ["1 apple stone", "2 stone"]
    pairs = [Pair("1 apple?", "It is a stone.", "No stone.", "1")]
    both = made.encode_continuations(pairs, chat=True)
    assert own_texts(both, made) == ["It is a stone.", "No stone."]
    assert all(text.startswith("<|user|>1 apple?<|end|><|assistant|>") for text in whole_texts(both, made))
    plain = made.encode_continuations(pairs)
    assert [text.strip() for text in own_texts(plain, made)] == ["It is a stone.", "No stone."]
    with pytest.raises(InputError, match="nothing is left to predict of the text '1'"):
        made.encode_continuations([Statement("1", True, "a")], "{statement}")


@pytest.mark.parametrize("where", ["all", "answer"])
def test_likelihoods_are_those_of_plain_passes(problem: LanguageModelProblem, where: Any) -> None:
    """Row by row without padding, with the whole table of logits: what transformers gives."""
    texts = [Statement(f"{i} apple" + " stone" * i, i % 2 == 0, str(i)) for i in range(1, 6)]
    rows = problem.encode_continuations(texts, "so\n{statement}")
    judge = ContinuationJudge(problem, rows, torch.tensor([t.label for t in texts]), numbers(5), where)
    vector = SteeringVector({1: 5 * torch.randn(16, generator=torch.Generator().manual_seed(1))})
    for given, coefficient in ((None, 0.0), (vector, 1.5)):
        found = judge.scores(given, coefficient)
        for i, text in enumerate(texts):
            ids = torch.tensor([problem.encoder.rows.of(f"so\n{text.text}")])
            first = len(problem.encoder.rows.of("so\n"))
            model: Any = problem.model
            with torch.no_grad(), steered(model, vector, coefficient, "all" if where == "all" else first - 1):
                logits = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
            nats = logits.gather(1, ids[0, 1:, None])[first - 1 :, 0]
            assert float(found[i]) == pytest.approx(float(nats.mean()), abs=1e-5)
    effect = judge.effect(judge.scores(), judge.scores(vector, 1.5))
    assert effect.value != 0
    subset = judge.subset(torch.tensor([1, 2, 4]))
    assert torch.allclose(subset.scores(vector, 1.5), judge.scores(vector, 1.5)[[1, 2, 4]], atol=1e-6)


@dataclass(frozen=True)
class Noise(Judge):
    """Scores that know nothing of the vector: every layer gives every row another number."""

    unit = "nats"
    contrasts = False
    noise: Any = None

    def scores(self, vector: SteeringVector | None = None, coefficient: float = 0.0) -> torch.Tensor:
        which = vector.layers[0] if vector else 0
        values: torch.Tensor = self.noise[which]
        return values[self.rows.input_ids[:, 0]]


def noise_judge(seed: int, n_layers: int, n: int = 16) -> Noise:
    ids = torch.arange(n)[:, None]
    rows = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), torch.ones_like(ids))
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_layers + 1, n)))
    return Noise(None, rows, numbers(n) % 2 == 0, numbers(n), "all", values)  # type: ignore[arg-type]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_sweep, "activation_sizes", lambda *given: dict.fromkeys(given[-1].layers, 1.0))
    monkeypatch.setattr(AtBudget, "calibrated", lambda *_: Calibration(1.0, 0.05, 32.0))


@pytest.mark.usefixtures("no_model")
def test_what_the_best_layer_is_worth_is_not_measured_on_the_rows_that_chose_it() -> None:
    """Of ten layers that do nothing the best one looks good where it was chosen, and like nothing elsewhere."""
    vector = SteeringVector({layer: torch.ones(4) for layer in range(1, 11)})
    chosen, reported = [], []
    for seed in range(60):
        found = sweep_layers(
            noise_judge(seed, 10),
            None,
            vector,
            kl=0.05,
            n_random=0,
            streams=Streams(seed),  # type: ignore[arg-type]
        )
        assert found.best == max(found.chosen_on, key=lambda layer: found.chosen_on[layer].value)
        assert found.reported is not None
        chosen.append(found.chosen_on[found.best].value)
        reported.append(found.reported.value)
        assert (found.n_chosen_on, found.n_reported) == (8, 8)
    assert np.mean(chosen) > 5 * stats.sem(chosen)
    assert abs(np.mean(reported)) < 3 * stats.sem(reported)


@pytest.mark.usefixtures("no_model")
def test_a_sweep_says_what_begins_as_often_as_foretold() -> None:
    vector, begun = SteeringVector({layer: torch.ones(4) for layer in range(1, 11)}), list[str]()
    common: Any = {"kl": 0.05, "streams": Streams(0), "begins": begun.append}
    found = sweep_layers(noise_judge(0, 10), None, vector, n_random=3, layers=(2, 5), **common)  # type: ignore[arg-type]
    assert len(begun) == sweep_steps(2, 3)
    assert (list(found.chosen_on), list(found.random), len(found.null)) == ([2, 5], [2, 5], 3)
    with pytest.raises(InputError, match="no layer 11"):
        sweep_layers(noise_judge(0, 10), None, vector, n_random=0, layers=(2, 11), **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two or more"):
        sweep_layers(noise_judge(0, 10), None, vector, n_random=0, layers=(2,), **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="layer 2 only"):
        sweep_layers(noise_judge(0, 10), None, vector.only(2), n_random=0, **common)  # type: ignore[arg-type]


def test_random_directions_have_the_vector_s_length_and_the_kl(problem: LanguageModelProblem) -> None:
    texts = [Statement(f"{i} apple stone", i % 2 == 0, str(i)) for i in range(6)]
    rows = problem.encode_continuations(texts, "{statement}")
    judge = ContinuationJudge(problem, rows, torch.tensor([t.label for t in texts]), numbers(6), "all")
    neutral = effects.NeutralText(problem, problem.neutral("", 2))
    vector = SteeringVector({1: torch.ones(16)})
    at = AtBudget(judge, neutral, vector, 0.05, 4.0)
    drawn: list[tuple[SteeringVector, float]] = []
    plain = at.calibrated

    def calibrated(direction: Any = None, start: float | None = None) -> Calibration:
        found = plain(direction, start)
        assert found.coefficient is not None
        drawn.append((direction, found.coefficient))
        return found

    at.calibrated = calibrated  # type: ignore[method-assign]
    found = at.random_effects(judge.scores(), 3, Streams(0), 1.0, lambda what: None)
    assert len(set(found)) == 3
    assert found == at.random_effects(judge.scores(), 3, Streams(0), 1.0, lambda what: None)
    for direction, coefficient in drawn:
        assert float(direction.directions[1].norm()) == pytest.approx(4.0)
        with steered(problem.model, direction, coefficient):
            assert neutral.kl() == pytest.approx(0.05, rel=0.05)
    with pytest.raises(InputError, match="zero at layer 1"):
        AtBudget(judge, neutral, SteeringVector({1: torch.zeros(16)}), 0.05, 4.0)
