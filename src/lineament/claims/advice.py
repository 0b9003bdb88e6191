"""What a recording says about practice: each line with its value, interval, null and the quantity it came from.

Intervals are Student t over recordings (replicates of one target). One recording has none; its half-life then comes
with the spread over starting times within that run, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lineament.claims.advice_line import Advice, with_interval
from lineament.claims.advice_tests import MEASUREMENT, rank_test, refresh_test, span_test, tests_of
from lineament.claims.evidence import mean_or_none
from lineament.claims.intervals import over_seeds
from lineament.records import Label, Quantity, Record, label_values

# GaLore's default number of steps between refreshes of its projection (Zhao et al. 2024, arXiv 2403.03507).
GALORE_REFRESH_STEPS = 200
NORMAL_95 = 1.96
# A cosine of exactly 1 has no finite z; it is moved this far inside before the transform.
COSINE_MARGIN = 1e-6
# Unit -> (to a scale without ends, back).
SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "steps": (math.log, math.exp),
    "directions": (math.log, math.exp),
    "cosine": (lambda c: math.atanh(max(COSINE_MARGIN - 1, min(1 - COSINE_MARGIN, c))), math.tanh),
}
# Unit -> what no value can be below or above.
BOUNDS = {"cosine": (-1.0, 1.0), "fraction": (0.0, 1.0)}
ONE = "one recording"
# Cosine of two first updates above which they differ by rounding alone.
SAME = 0.999


SPAN = "First steps that span the run"
NO_SPAN_TEST = "a sum of dW is no sum of its factors, so that no training can be held in a span of dW"
REFRESH = "How long a plane of gradients is of use"
OVERLAP = "How long a plane of directions stays the same"
PHASES = {"early": " early in the run", "late": " later", "all": ""}
STALE = "How stale a direction of step t is later"
STALE_WORDS = {
    "task_vector_cosine": "task vector",
    "direction_cosine": "weight step",
    "direction_cosine_corrected": "weight step, less its noise,",
}
RANK = "Rank that the updates used"
# The one staleness that has a sentence: what a quarter of the run says about its end.
TOLD = ("task_vector_cosine", 0.25, 1.0, "parameters")


def advise(records: Sequence[Record]) -> list[Advice]:
    """Return the lines of all topics, from the records of one target's recordings, each with what its test gave.

    Args:
        records: analyses of the recordings and, where lines were tested, the records of those tests.
    """
    tests = tests_of(records)
    own = _with_gradients(analyses(records), tests)
    return [*_spans(own, tests), *_refreshes(own, tests), *_lives(own), *_stale(own), *_ranks(own, tests)]


def analyses(records: Sequence[Record]) -> list[Record]:
    """Return the analyses of recordings among records, without those of tests of advice."""
    return [record for record in records if record.measurement != MEASUREMENT]


def _with_gradients(own: Sequence[Record], tests: Sequence[Record]) -> list[Record]:
    """Give analyses of recordings without gradients the retention of those that were made again for tests."""
    made = {test.seed: [one for one in test.quantities if one.labels.get("made") == "again"] for test in tests}
    found = []
    for record in own:
        if more := made.get(record.seed):
            names = {one.name for one in more}
            kept = [one for one in record.quantities if one.name not in names]
            record = replace(record, quantities=(*kept, *more))
        found.append(record)
    return found


def remarks(records: Sequence[Record]) -> list[str]:
    """Return what must be known to read the lines: the blind run or why there is none, and rows that were left out."""
    records, tests = analyses(records), tests_of(records)
    blind = [quantity for record in records for quantity in record.select("blind_run")]
    made = dict.fromkeys(str(quantity.labels["optimizer"]) for quantity in blind if quantity.value is not None)
    missing = dict.fromkeys(str(quantity.reason) for quantity in blind if quantity.value is None)
    zero = [q for record in records for q in record.select("recorded", what="zero updates") if q.value]
    sentences = [f"Blind: a run of the same optimizer ({words}) on gradients that know nothing." for words in made]
    sentences += [f"No blind values: {reason}." for reason in missing]
    spaces = dict.fromkeys(q.reason for record in records for q in record.select("recorded", what="parameters"))
    sentences += [f"No figures of dW: {reason}." for reason in spaces if reason]
    if any(q.labels.get("made") == "again" for record in tests for q in record.select("refresh_lag")):
        sentences.append(
            "No gradients were recorded; for the refresh lines they were made again at each recorded point."
        )
    named = dict.fromkeys(f"{quantity.value:g} ({quantity.reason})" for quantity in zero)
    again = [q.value for record in tests for q in record.select("first_update_cosine") if q.value is not None]
    if again:
        same = "1: on the same batches" if min(again) > SAME else "below 1: on other batches, or another training"
        sentences.append(
            f"Tests trained again; cosine of the first update with the recorded one {min(again):.2f} ({same})."
        )
    return sentences + [f"Updates that are exactly zero, and are not counted: {words}." for words in named]


def _spans(records: Sequence[Record], tests: Sequence[Record]) -> Iterator[Advice]:
    for space_of in label_values(records, "steps_to_span", "space_of"):
        for share in label_values(records, "steps_to_span", "share"):
            for basis, text in (("prefix", "first steps"), ("control_random_times", "steps at random times")):
                labels = {"share": share, "basis": basis, "space_of": space_of}
                words = f"{float(share):.0%} of {_displacement(space_of)}: {text}"
                line = _line(records, SPAN, words, "steps_to_span", labels)
                if basis == "prefix":
                    steps = whole_steps(line.value)
                    found = span_test(tests, labels, float(share), steps)
                    line = replace(line, testable=True, tested=found)
                    if space_of == "parameters":
                        line = replace(line, says=_says_span(line, steps, float(share)))
                    else:
                        line = replace(line, no_test=NO_SPAN_TEST)
                yield line


def _lives(records: Sequence[Record]) -> Iterator[Advice]:
    for rows in label_values(records, "plane_half_life", "rows"):
        for phase, words in PHASES.items():
            text = f"half-life of the overlap{words} (planes of {rows})"
            yield _line(records, OVERLAP, text, "plane_half_life", {"rows": rows, "from": phase})


def _refreshes(records: Sequence[Record], tests: Sequence[Record]) -> Iterator[Advice]:
    """Yield when a projection should be made anew, by what an old one still holds: never by the overlap of planes."""
    for share in label_values(records, "refresh_lag", "share"):
        for phase, words in PHASES.items():
            text = f"{float(share):.0%} of a fresh plane's energy is left{words}"
            labels = {"share": share, "from": phase}
            if phase != "all":
                yield _line(records, REFRESH, text, "refresh_lag", labels)
                continue
            text = f"{text}: refresh by then (GaLore's default: {GALORE_REFRESH_STEPS})"
            line = _line(records, REFRESH, text, "refresh_lag", labels)
            every = whole_refresh(line.value)
            found = refresh_test(tests, labels, every)
            yield replace(line, testable=True, tested=found, says=_says_refresh(line, every, float(share)))


def _stale(records: Sequence[Record]) -> Iterator[Advice]:
    for quantity, words in STALE_WORDS.items():
        times: dict[tuple[Label, Label], set[tuple[Label, Label]]] = {}
        for cosine in (cosine for record in records for cosine in record.select(quantity)):
            of = cosine.labels
            times.setdefault((of["share"], of["at_share"]), set()).add((of["step"], of["at"]))
        spaces: list[Label | None] = [*label_values(records, quantity, "space_of")] or [None]
        for space_of in spaces:
            where: dict[str, Label] = {"space_of": space_of} if space_of is not None else {}
            suffix = " in dW" if space_of == "lora_effective" else ""
            for (share, at_share), steps in times.items():
                text = f"{words} of {_when(share, at_share, steps)}{suffix}"
                line = _line(records, STALE, text, quantity, {"share": share, "at_share": at_share, **where})
                told = (quantity, share, at_share, space_of) == TOLD and line.value is not None
                says = f"the {text} has a cosine of {with_interval(line)}{_blind(line, '; blind run')}"
                yield replace(line, says=says if told else "")


def _when(share: Label, at_share: Label, steps: set[tuple[Label, Label]]) -> str:
    """Say when: in steps where all recordings agree on them, otherwise in shares of the run."""
    if len(steps) == 1:
        step, at = next(iter(steps))
        return f"step {step} at step {at}"
    return f"{float(share):.0%} of the run at {float(at_share):.0%}"


def _says_span(line: Advice, steps: int, share: float) -> str:
    if line.value is None:
        return ""
    ends = "" if line.low is None or line.high is None else f" [{line.low:.3g}, {line.high:.3g}]"
    first = f"first step{ends} spans" if steps == 1 else f"first {steps} steps{ends} span"
    return f"the {first} {100 * share:.0f} % of the way{_blind(line, '; a blind run needs')}"


def _says_refresh(line: Advice, every: int, share: float) -> str:
    held = f"{100 * share:.0f} % of what a fresh one holds"
    if line.value is not None:
        ends = "" if line.low is None or line.high is None else f" [{line.low:.3g}, {line.high:.3g}]"
        return f"after {every} steps{ends} a plane of {line.of_rank} gradient directions still holds {held}"
    lags = (line.reason or "").partition(" (")[0]
    if lags.startswith(">"):
        return f"after {lags.removeprefix('> ')} steps and more a plane of gradients still holds {held}"
    if lags.startswith("<"):
        return f"a plane of gradients holds less than {held} before {lags.removeprefix('< ')} steps are over"
    return ""


def _blind(line: Advice, words: str) -> str:
    """Return the blind run's value, to stand behind a figure."""
    return "" if line.blind is None else f"{words if words.startswith(';') else f'; {words}'} {line.blind:.3g}"


def whole_steps(value: float | None) -> int:
    """Return the first steps that a span's value, which is a mean over recordings, stands for; 0 without one."""
    return 0 if value is None else math.ceil(value)


def whole_refresh(value: float | None) -> int:
    """Return the steps between two refreshes that a lag stands for, at least 1; 0 without one."""
    return 0 if value is None else max(1, round(value))


def whole_rank(value: float | None) -> int:
    """Return the rank that an effective rank asks for, at least 1; 0 without one."""
    return 0 if value is None else max(1, math.ceil(value))


def _ranks(records: Sequence[Record], tests: Sequence[Record]) -> Iterator[Advice]:
    for statistic in label_values(records, "mean_module_rank", "statistic"):
        paid = label_values(records, "mean_module_rank", "paid")
        words = f"{str(statistic).replace('_', ' ')} of dW per module, rank {float(paid[0]):g} paid for"
        line = _line(records, RANK, words, "mean_module_rank", {"statistic": statistic})
        found = rank_test(tests, statistic, whole_rank(line.value))
        says = f"the updates used {with_interval(line)} directions of each adapted weight"
        why = f"{str(statistic).replace('_', ' ')}; rank {float(paid[0]):g} paid for{_blind(line, 'blind run')}"
        yield replace(line, tested=found, testable=True, says=f"{says} ({why})" if line.value else "")
    for space_of in label_values(records, "run_rank", "space_of"):
        labels = {"statistic": "participation_ratio", "space_of": space_of}
        yield _line(records, RANK, f"participation ratio of all updates, {_space(space_of)}", "run_rank", labels)


def _line(records: Sequence[Record], topic: str, text: str, quantity: str, labels: dict[str, Label]) -> Advice:
    first = [next(record.select(quantity, **labels), None) for record in records]
    measured = [one for one in first if one is not None]
    values = [one.value for one in measured if one.value is not None]
    unit = measured[0].unit if measured else ""
    low, high = _over_recordings(values, unit)
    kind = f"{len(values)} recordings"
    if len(records) == 1 or len(values) < 2:
        low, high, kind = _within(measured)
    missing = [one.reason or "undefined" for one in measured if one.value is None]
    reason = "; ".join(dict.fromkeys(missing)) or (None if measured else "not measured")
    if values and missing:  # the mean of those that crossed would be too short
        reason = f"{len(missing)} of {len(measured)} recordings: {reason}"
    return Advice(
        topic, text, mean_or_none(values), low, high, kind,
        mean_or_none(one.null for one in measured if one.null is not None),
        unit, _name(quantity, labels), reason,
        mean_or_none(one.blind for one in measured if one.blind is not None),
        quantity, labels, of_rank=measured[0].labels.get("rank") if measured else None,
    )  # fmt: skip


def _over_recordings(values: Sequence[float], unit: str) -> tuple[float | None, float | None]:
    """Return a Student t interval over recordings, on logarithms of steps and ranks and on Fisher's z of cosines."""
    to, back = SCALES.get(unit, (float, float))
    interval = over_seeds([to(value) for value in values])
    low, high = (None if end is None else back(end) for end in (interval.low, interval.high))
    return low, high


def _within(quantities: Sequence[Quantity]) -> tuple[float | None, float | None, str]:
    """Return the interval from the spread within one run, where the quantity has one."""
    known = [quantity for quantity in quantities if quantity.value is not None]
    if len(known) != 1 or known[0].stderr is None or known[0].value is None:
        return None, None, ONE
    half = NORMAL_95 * known[0].stderr
    lowest, highest = BOUNDS.get(known[0].unit, (0.0, math.inf))
    return max(lowest, known[0].value - half), min(highest, known[0].value + half), "within the run"


def _name(quantity: str, labels: dict[str, Label]) -> str:
    return f"{quantity}({', '.join(f'{key}={value}' for key, value in labels.items())})"


def _displacement(space_of: Label) -> str:
    return "the dW displacement" if space_of == "lora_effective" else "the displacement"


def _space(space_of: Label) -> str:
    return "dW" if space_of == "lora_effective" else "as recorded"
