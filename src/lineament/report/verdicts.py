"""Rows of the verdict table in words: what a claim states, and which of its conditions hold, fail or are open.

Nothing is judged here: verdicts and conditions are shown as claims.json has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lineament.claims.intervals import FEW_SEEDS, FEWEST_SEEDS
from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import VERDICT_WORDS, Claim, Condition
from lineament.records import target_words
from lineament.report import words
from lineament.report.estimates import interval_text, number, with_digits

# Whether a part of a rule holds.
HELD: Mapping[bool | None, str] = {True: "holds", False: "fails", None: "open"}
SIGNS = {"supported": "✓", "not_supported": "✗", "inconclusive": "?"}
STRADDLES = "Undecided: the interval {interval} reaches both sides of the rule ({rule})."
UNDECIDED_FOR_SEEDS = "{}: no interval, so nothing can be decided. Run at least three seeds, better five."


def claim_title(id: str) -> str:
    """Return the claim as a sentence; one that this version does not know keeps its identifier."""
    return CLAIMS[id].title if id in CLAIMS else id.replace("_", " ")


def verdict_row(claim: Claim) -> dict[str, Any]:
    """Return one row of the claims table as texts."""
    return {
        "id": claim.id,
        "title": claim_title(claim.id),
        "meaning": meaning(claim),
        "sign": SIGNS[claim.verdict],
        "verdict": VERDICT_WORDS[claim.verdict],
        "kind": claim.verdict,
        "task": target_words(claim.task),
        "needed": needed(claim),
        "measured": "none" if claim.measured is None else with_digits(claim.measured, claim.low, claim.high),
        "interval": _interval(claim),
        "null": _shown(claim.null, "none"),
        "blind": _shown(claim.blind, "none"),
        "paper": _shown(claim.paper, "none"),
        "facts": _facts(claim),
    }


def verdict_counts(verdicts: Iterable[str]) -> str:
    """Say how often each verdict was given, e.g. `2 supported, 1 inconclusive`."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {text}" for verdict, text in VERDICT_WORDS.items() if counts[verdict])


def meaning(claim: Claim) -> str:
    """Say what the verdict means; for an undecided one which conditions are open, and how the others stand."""
    if claim.verdict == "inconclusive":
        few = _few_seeds(claim)
        return UNDECIDED_FOR_SEEDS.format(few.capitalize()) if few else _undecided(claim)
    rule = CLAIMS.get(claim.id)
    if rule is None:
        return ""
    return rule.holds if claim.verdict == "supported" else " ".join([rule.fails, *_failed(claim)])


def undecided_for_all(claims: Sequence[Claim]) -> str | None:
    """Return why nothing could be decided, where one sentence is true of every claim."""
    few = {_few_seeds(claim) for claim in claims}
    return UNDECIDED_FOR_SEEDS.format(reason.capitalize()) if len(few) == 1 and (reason := few.pop()) else None


def needed(claim: Claim) -> list[dict[str, str]]:
    """Return what the rule asks for, part by part: in words, what was found where that is another figure, and whether
    it holds."""
    if not claim.conditions:  # claims of schema 1
        return [{"text": claim.rule, "found": "", "held": HELD[None]}]
    return [
        {
            "text": condition.bounds.words(condition.name),
            "found": "" if _is_own(condition, claim) else _found(condition),
            "held": HELD[condition.holds],
        }
        for condition in claim.conditions
    ]


def _is_own(condition: Condition, claim: Claim) -> bool:
    """Return whether a condition is on the figure that the claim shows as measured."""
    of = condition.interval
    return of is not None and (of.mean, of.low, of.high) == (claim.measured, claim.low, claim.high)


def _found(condition: Condition) -> str:
    of = condition.interval
    if of is None:
        return "not measured"
    known = of.low is not None and of.high is not None and of.n_seeds >= FEWEST_SEEDS
    ends = f" {interval_text(of.low or 0.0, of.high or 0.0)}" if known else ""
    return f"{with_digits(of.mean, of.low, of.high)}{ends}"


def _few_seeds(claim: Claim) -> str | None:
    """Return the claim's reason where it is that of too few seeds."""
    return claim.reason if claim.reason in FEW_SEEDS.values() else None


def _undecided(claim: Claim) -> str:
    if claim.reason:
        return f"Undecided: {claim.reason}."
    open_ = [_open_text(condition) for condition in claim.conditions if condition.holds is None]
    if not open_:  # claims of schema 1 have no conditions
        return STRADDLES.format(interval=_interval(claim), rule=claim.rule)
    settled = [f"{_value_text(c)} {_bounds(c)}" for c in claim.conditions if c.holds]
    return " ".join([_sentence("Undecided", open_), *([_sentence("Holds", settled)] if settled else [])])


def _failed(claim: Claim) -> list[str]:
    """Name the conditions that fail, of a rule with several."""
    failed = [f"{_value_text(c)} {_bounds(c, 'is not')}" for c in claim.conditions if c.holds is False]
    return [_sentence("Fails", failed)] if failed and len(claim.conditions) > 1 else []


def _open_text(condition: Condition) -> str:
    if condition.interval is None or condition.interval.low is None:
        return f"{condition.name} has no interval"
    if condition.bounds.contains is not None:
        return f"{_value_text(condition)} does not contain {number(condition.bounds.contains)}"
    return f"{_value_text(condition)} reaches both sides of {' and of '.join(map(number, condition.crossed))}"


def _bounds(condition: Condition, verb: str = "is") -> str:
    """Return the predicate of a condition, e.g. `is above 0.3`."""
    bounds = condition.bounds
    if bounds.contains is not None:
        return f"contains {number(bounds.contains)}"
    limits = [f"above {number(bounds.above)}"] if bounds.above is not None else []
    limits += [f"below {number(bounds.below)}"] if bounds.below is not None else []
    return f"{verb} {' and '.join(limits)}"


def _value_text(condition: Condition) -> str:
    interval = condition.interval
    if interval is None or interval.low is None or interval.high is None:
        return condition.name
    mean = with_digits(interval.mean, interval.low, interval.high)
    return f"{condition.name}, {mean} {interval_text(interval.low, interval.high)},"


def _sentence(head: str, clauses: Iterable[str]) -> str:
    return f"{head}: {'; '.join(clauses)}."


def _shown(value: float | None, otherwise: str) -> str:
    return number(value) if value is not None else otherwise


def _interval(claim: Claim) -> str:
    if claim.low is not None and claim.high is not None:
        return interval_text(claim.low, claim.high)
    # Any other reason is a sentence, which stands below the claim and would widen this column.
    few = _few_seeds(claim)
    return f"{few}: no interval" if few else "no interval"


def _facts(claim: Claim) -> list[tuple[str, str]]:
    space = words.SPACES.get(claim.space, claim.space)
    rank = [("rank", str(claim.rank))] if claim.rank is not None else []
    return [
        ("rule", claim.rule),
        ("space", space),
        ("unit", claim.unit),
        *rank,
        ("definition", claim.definition),
        ("interval", f"{100 * claim.level:.0f} %, Student t over seeds"),
    ]
