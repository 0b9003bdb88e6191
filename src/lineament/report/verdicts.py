"""Rows of the verdict table in words, from claims.json alone: what a claim states, which part of its rule decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lineament.report import words
from lineament.report.estimates import number


@dataclass(frozen=True)
class Part:
    """One part of a rule: an interval that must lie above `low` and below `high` as a whole.

    `detail` names the interval in the claim's details; None is the claim's own.
    """

    name: str
    detail: str | None = None
    low: float | None = None
    high: float | None = None


PARTS = {
    "gradient_low_rank": (
        Part("the share of directions k90 / n", high=0.5),
        Part("that share minus the share for shuffled labels", "difference_to_shuffled", high=0.0),
    ),
    "static_plane_misses": (Part("the capture by the best fixed plane", high=0.5),),
    "prefix_captures": (
        Part("first updates minus best fixed plane", "minus_best_static", low=0.0),
        Part("first updates minus updates on shuffled labels", "minus_noise_prefix", low=0.0),
    ),
    "basis_drifts": (Part("the share of the plane that is left", high=0.5),),
    "krylov_prefix": (Part("the overlap", low=0.5),),
    "best_of_n_theorem": (Part("measured over predicted gain", low=0.9, high=1.1),),
    "dimension_free": (Part("the slope", low=-0.05, high=0.05),),
    "signal_density": (Part("the rank correlation", low=0.5),),
    "step_matches_caa": (
        # Judged seed by seed: what stands in brackets here is no interval.
        Part("the cosine minus the largest null draw's (in brackets: lowest, highest seed)", "minus_largest_null", 0.0),
        Part("the cosine", low=0.3),
    ),
    "step_steers": (Part("the share of the CAA vector's effect", low=0.5),),
    "prefix_is_privileged": (
        Part("first updates minus random times, whole", "whole", low=0.0),
        Part("first updates minus random times, rest", "rest", low=0.0),
    ),
    "static_gap_is_metric": (Part("the closed share of the gap", low=0.25),),
    "capture_predicts_recovery": (Part("the rank correlation", low=0.5),),
    "drift_follows_loss": (Part("the drift rate before minus after", low=0.0),),
}


def verdict_row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the claims table: a claim of claims.json as texts."""
    known = words.CLAIMS.get(claim["id"])
    sign, verdict = words.VERDICTS[claim["verdict"]]
    return {
        "id": claim["id"],
        "title": known.title if known else claim["id"].replace("_", " "),
        "meaning": meaning(claim),
        "sign": sign,
        "verdict": verdict,
        "kind": claim["verdict"],
        "task": claim["task"],
        "rule": claim["rule"],
        "measured": _shown(claim["measured"], "none"),
        "interval": _interval(claim),
        "null": _shown(claim["null"], "no single number"),
        "paper": _shown(claim["paper"], "no figure"),
        "facts": _facts(claim),
    }


def meaning(claim: Mapping[str, Any]) -> str:
    """What the verdict says; for an undecided one which part of the rule is open, and how the other parts stand."""
    if claim["verdict"] == "inconclusive":
        return words.ONE_SEED if claim.get("reason") == "one seed" else _undecided(claim)
    known = words.CLAIMS.get(claim["id"])
    if known is None:
        return ""
    return known.holds if claim["verdict"] == "supported" else " ".join([known.fails, *_failed(claim)])


def _undecided(claim: Mapping[str, Any]) -> str:
    if claim.get("reason"):
        return f"Undecided: {claim['reason']}."
    judged = _judged(claim)
    open_ = [_open_text(part, found) for part, found, holds in judged if holds is None]
    if not open_:
        return words.STRADDLES.format(interval=_interval(claim), rule=claim["rule"])
    settled = [_settled_text(part, found) for part, found, holds in judged if holds]
    return " ".join([_sentence("Undecided", open_), *([_sentence("Holds", settled)] if settled else [])])


def _failed(claim: Mapping[str, Any]) -> list[str]:
    """Which parts of a rule with several parts fail."""
    judged = _judged(claim)
    failed = [f"{_value_text(part, found)} is not {_bounds(part)}" for part, found, holds in judged if holds is False]
    return [_sentence("Fails", failed)] if failed and len(judged) > 1 else []


def _judged(claim: Mapping[str, Any]) -> list[tuple[Part, Mapping[str, Any], bool | None]]:
    """(part, interval, holds) for the parts whose intervals claims.json holds."""
    parts = [(part, _of_part(part, claim)) for part in PARTS.get(claim["id"], ())]
    return [(part, found, _holds(part, found)) for part, found in parts if found is not None]


def _of_part(part: Part, claim: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Mean, low and high of a part; None where claims.json does not hold them."""
    if part.detail is None:
        return {"mean": claim["measured"], "low": claim["low"], "high": claim["high"]}
    found = (claim.get("details") or {}).get(part.detail)
    return found if isinstance(found, Mapping) and {"mean", "low", "high"} <= set(found) else None


def _holds(part: Part, found: Mapping[str, Any]) -> bool | None:
    """As the claims judge: the whole interval inside, the whole interval outside, or None."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return None
    if (part.low is not None and high <= part.low) or (part.high is not None and low >= part.high):
        return False
    inside = (part.low is None or low > part.low) and (part.high is None or high < part.high)
    return True if inside else None


def _open_text(part: Part, found: Mapping[str, Any]) -> str:
    if found["low"] is None or found["high"] is None:
        return f"{part.name} has no interval"
    crossed = [b for b in (part.low, part.high) if b is not None and found["low"] <= b <= found["high"]]
    return f"{_value_text(part, found)} reaches both sides of {' and of '.join(number(b) for b in crossed)}"


def _settled_text(part: Part, found: Mapping[str, Any]) -> str:
    return f"{_value_text(part, found)} is {_bounds(part)}"


def _bounds(part: Part) -> str:
    bounds = [f"above {number(part.low)}"] if part.low is not None else []
    return " and ".join([*bounds, *([f"below {number(part.high)}"] if part.high is not None else [])])


def _value_text(part: Part, found: Mapping[str, Any]) -> str:
    return f"{part.name}, {number(found['mean'])} [{number(found['low'])}, {number(found['high'])}],"


def _sentence(head: str, clauses: Iterable[str]) -> str:
    return f"{head}: {'; '.join(clauses)}."


def _shown(value: float | None, otherwise: str) -> str:
    return number(value) if value is not None else otherwise


def _interval(claim: Mapping[str, Any]) -> str:
    if claim["low"] is not None and claim["high"] is not None:
        return f"[{number(claim['low'])}, {number(claim['high'])}]"
    # Any other reason is a sentence, which stands below the claim and would widen this column.
    return "one seed: no interval" if claim.get("reason") == "one seed" else "no interval"


def _facts(claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    space = words.SPACES.get(claim["space"], claim["space"])
    facts = [("rule", claim["rule"]), ("space", space), ("unit", claim["unit"])]
    facts += [(key, str(claim[key])) for key in ("rank", "definition") if claim.get(key) is not None]
    if claim.get("level") is not None:
        facts.append(("interval", f"{100 * claim['level']:.0f} %, Student t over seeds"))
    return facts
