"""What testing a line of advice gave, by rules that were fixed before any result (protocol, section 8).

- Span, "the first k updates span q of the run": training only their k coefficients from the run's start brings back at
  least q of its fall in held-out loss, and more than k random directions and more than k blind updates do.
- Refresh, "a plane is of use for R steps": the same training, projected on a plane that is made anew every R steps,
  ends no worse than with R / 5, and better than with a plane that is never made anew.
- Rank, "the updates used rank r": dW cut down to r costs at most 1 % of the run's fall in held-out loss.
Each part must hold for the whole interval: Student t over recordings of one training, or over repeated trainings; of
one run, where there is nothing else, 1.96 standard errors of a bootstrap over held-out examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lineament.claims.intervals import LEVEL, Interval, over_seeds
from lineament.records import Label, Quantity, Record

MEASUREMENT = "advice_check"
# The most that cutting dW down may cost, as a share of the run's fall in loss.
MAX_RANK_COST = 0.01
BOOTSTRAP, REPEATS = "bootstrap over held-out examples", "repeated trainings"
Outcome = Literal["passed", "failed", "undecided"]
OTHERS = {"random": "random directions", "blind": "blind"}
# Times between refreshes that the advised one is compared with.
ARMS = ("fifth", "five_fold", "galore", "never")


@dataclass(frozen=True)
class Condition:
    """One part of a rule.

    Attributes:
        text: what must hold. holds: whether it does for the whole interval; None without an interval.
    """

    text: str
    low: float | None
    high: float | None
    holds: bool | None


@dataclass(frozen=True)
class Tested:
    """What the test of one line of advice gave.

    Attributes:
        passed: whether every part of the rule holds; None where there is no interval to judge by.
        text: what was done and found, in a sentence.
        value: the figure, with its interval; `interval` says what that is over.
        null, blind: the same of random directions, and of blind ones.
        figure: name of the record's quantity.
        reason: why there is no figure.
    """

    passed: bool | None
    text: str
    value: float | None
    low: float | None
    high: float | None
    interval: str
    null: float | None
    blind: float | None
    figure: str
    conditions: tuple[Condition, ...]
    reason: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The verdict in one word."""
        return "undecided" if self.passed is None else "passed" if self.passed else "failed"


def tests_of(records: Sequence[Record]) -> list[Record]:
    """Return the records of tests that were made of these very recordings; others are out of date.

    Args:
        records: analyses and tests of one target's recordings.
    """
    analyzed = {record.seed: _identity(record) for record in records if record.measurement != MEASUREMENT}
    return [
        record
        for record in records
        if record.measurement == MEASUREMENT and analyzed.get(record.seed) == _identity(record)
    ]


def span_test(tests: Sequence[Record], labels: dict[str, Label], share: float, steps: float) -> Tested | None:
    """Judge "the first `steps` updates span `share` of the run"; None where that was not tested.

    Args:
        labels: those of the line's quantity.
    """
    known = _selected(tests, "span_returned", **labels, steps=steps)
    if not known:
        return None
    found, kind = _interval(known)
    above = {over: _interval(_selected(tests, "span_above", **labels, steps=steps, over=over))[0] for over in OTHERS}
    conditions = [
        _condition(f"share brought back, at least {100 * share:.0f} %", found, lambda low, high: low >= share)
    ]
    conditions += [
        _condition(f"more than {words}", above[over], lambda low, high: low > 0) for over, words in OTHERS.items()
    ]
    null, blind = (_mean(getattr(one, name) for one in known) for name in ("null", "blind"))
    rank = known[0].labels["rank"]
    noun = "this number" if rank == 1 else f"these {rank} numbers"
    text = (
        f"training only {noun} brought back {_percent(found.mean)} of the loss drop{_ends(found)}; random directions "
        f"{_percent(null)}, blind {_percent(blind)}"
    )
    return _tested(text, found, kind, known, conditions)


def refresh_test(tests: Sequence[Record], labels: dict[str, Label], every: int) -> Tested | None:
    """Judge "a plane is to be made anew after `every` steps"; None where that was not tested.

    Args:
        labels: those of the line's quantity.
    """
    known = _selected(tests, "refresh_loss", **labels, steps=every, arm="advised")
    if not known:
        known = _selected(tests, "refresh_loss", **labels, steps=every)  # with the reason why there is none
    if not known:
        return None
    higher, periods, kind = dict[str, Interval](), dict[str, Label](), ""
    for arm in ARMS:
        differences = _selected(tests, "refresh_difference", **labels, steps=every, arm=arm)
        higher[arm], kind = _interval(differences)
        periods[arm] = differences[0].labels["every"] if differences else 0
    conditions = [
        _condition(f"no worse than every {periods['fifth']} steps", higher["fifth"], lambda low, high: low <= 0),
        _condition("better than never", higher["never"], lambda low, high: high < 0),
    ]
    own = _mean(one.value for one in known)
    beside = [_beside(arm, periods[arm], higher[arm]) for arm in ARMS if arm == "never" or periods[arm]]
    rank = known[0].labels["rank"]
    text = (
        f"trained in planes of rank {rank}, made anew every {every} steps, it ended at "
        f"{'-' if own is None else f'{own:.4g}'} nats; others ended higher by: {'; '.join(beside)}"
    )
    return _tested(text, higher["never"], kind, known, conditions)


def rank_test(tests: Sequence[Record], statistic: Label, rank: int) -> Tested | None:
    """Judge "the updates used rank `rank`", by cutting dW down to it; None where that was not tested."""
    known = _selected(tests, "rank_cost", statistic=statistic, rank=rank)
    if not known:
        return None
    found, kind = _interval(known)
    bound = f"cost at most {100 * MAX_RANK_COST:.0f} % of the loss drop"
    conditions = [_condition(bound, found, lambda low, high: high <= MAX_RANK_COST)]
    null = _mean(one.null for one in known)
    text = (
        f"cutting dW down to rank {rank} cost {_percent(found.mean)} of the loss drop{_ends(found)}; as many of its "
        f"other directions alone {_percent(null)}"
    )
    return _tested(text, found, kind, known, conditions)


def _identity(record: Record) -> tuple[str, float | None]:
    """Return what tells two recordings apart that were analyzed alike: their configuration and their length."""
    return record.config_hash, record.value("recorded", what="displacement")


def _selected(tests: Sequence[Record], quantity: str, **labels: Label) -> list[Quantity]:
    return [found for record in tests for found in record.select(quantity, **labels)]


def _interval(known: Sequence[Quantity]) -> tuple[Interval, str]:
    """Return mean and interval of a figure over recordings; of one recording, over what its error is over."""
    values = [one.value for one in known if one.value is not None]
    if len(values) != 1 or len(known) != 1:
        return over_seeds(values), f"{len(values)} recordings"
    only = known[0]
    repeats = int(only.labels.get("repeats", 1))
    kind = f"{repeats} {REPEATS}" if repeats > 1 else BOOTSTRAP
    if only.stderr is None:
        return Interval(values[0], None, None, 1), kind
    from scipy import stats  # takes long to import, and few need it

    quantile = stats.t.ppf(0.5 + LEVEL / 2, repeats - 1) if repeats > 1 else stats.norm.ppf(0.5 + LEVEL / 2)
    half = float(quantile) * only.stderr
    return Interval(values[0], values[0] - half, values[0] + half, 1), kind


def _beside(arm: str, period: Label, higher: Interval) -> str:
    """Say how another time between refreshes compares: how much higher it ended than the advised one."""
    name = "never" if arm == "never" else f"every {period} steps"
    if math.isnan(higher.mean):
        return f"{name} -"
    ends = "" if higher.low is None or higher.high is None else f" [{-higher.high:+.2g}, {-higher.low:+.2g}]"
    return f"{name} {-higher.mean:+.2g}{ends}"


def _condition(text: str, found: Interval, holds: Callable[[float, float], bool]) -> Condition:
    if found.low is None or found.high is None:
        return Condition(text, None, None, None)
    return Condition(text, found.low, found.high, holds(found.low, found.high))


def _tested(
    text: str, found: Interval, kind: str, known: Sequence[Quantity], conditions: Sequence[Condition]
) -> Tested:
    missing = "; ".join(dict.fromkeys(one.reason or "undefined" for one in known if one.value is None)) or None
    parts = [condition.holds for condition in conditions]
    passed = False if False in parts else None if None in parts or missing else True
    value = found.mean if found.n_seeds else None
    return Tested(
        passed, text if value is not None else f"not tested: {missing}", value, found.low, found.high, kind,
        _mean(one.null for one in known), _mean(one.blind for one in known), known[0].name, tuple(conditions), missing,
    )  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2g} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"


def _ends(found: Interval) -> str:
    if found.low is None or found.high is None:
        return ""
    low, high = (f"{100 * end:.2g}" if abs(end) < 0.1 else f"{100 * end:.0f}" for end in (found.low, found.high))
    return f" [{low}, {high}]"
