"""What a composition's record says in words and numbers, for its report and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import mean

from lineament.errors import InputError
from lineament.records import Label, Quantity, Record

SIDES = ("first", "second")
LETTERS = {"first": "A", "second": "B"}
PAIRS = ("between", "within_first", "within_second")
# Figures at scales of 1: (quantity, what its null is of, kind) -> what it is called.
AT_ONE = {
    ("cost", "cost", "measured"): "added by the other",
    ("cost", "cost", "predicted"): "foretold at own",
    ("interference_at_one", "interference", "measured"): "interference at 1, 1",
    ("interference_at_one", "interference", "predicted"): "foretold at the base",
    ("interference_at_one", "interference", "middle"): "foretold half-way",
}
# Chance up to which kappa between the data sets is called larger: the actual sharing out is the first of 35.
LEVEL = 0.05
# Kind of a predicted figure -> where its curvature was measured, in words.
SOURCES = {"predicted": "base", "both": "both"}
NOTE = (
    "Losses in nats per target token; [ ]: 95 %, bootstrap over examples. Foretold: from slope and curvature by the "
    "other adapter's scale at the own one (what the other adds), and from A'HB at the base or half-way to the sum "
    "(interference); r and reach of the base alone and of both. Off by: foretold less measured. Null: the same with "
    "singular values kept and singular vectors random, of B or, for what the other adds, of the other: "
    "median size, and how many of them are smaller."
)
Cell = Callable[[str], str]


def adapter_name(record: Record, side: str) -> str:
    """Return the name of an adapter, `first` or `second`."""
    return str(only(record, "adapter", adapter=side).labels["name"])


def data_name(record: Record, side: str) -> str:
    """Return the name of the data of an adapter."""
    return str(only(record, "examples", data=side).labels["name"])


def sentences(record: Record) -> Iterator[str]:
    """Say what adding the adapters does, what was foreseen, which scales are best, and whether order matters."""
    if not is_measured(record):
        yield from _foretold_sentences(record)
        yield from _order_sentences(record)
        return
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        measured, foretold = (only(record, "cost", data=side, kind=kind) for kind in ("measured", "predicted"))
        yield (
            f"Adding {LETTERS[other]} changes the loss of {LETTERS[side]}'s data by {_signed(record, measured)}; "
            f"curvature at {LETTERS[side]} foretold {_bare(foretold)}."
            + _by_chance(record, side, "cost", ("measured", "predicted"))
        )
    for side in SIDES:
        base, middle = (_bare(_at_one(record, side, kind)) for kind in ("predicted", "middle"))
        yield (
            f"Interference on {LETTERS[side]}'s data: {_signed(record, _at_one(record, side, 'measured'))}; curvature "
            f"at the base foretold {base}, half-way to the sum {middle}."
            + _by_chance(record, side, "interference", ("measured", "predicted", "middle"))
        )
    yield _best_sentence(record)
    yield from _order_sentences(record)


def first_and_other(record: Record) -> tuple[list[str], list[str]]:
    """Return the sentences of a first screen (what each costs the other, the best sum, the order), and the others."""
    costs, interference, best, order, others = (
        list(islice(left, count)) for left in [sentences(record)] for count in (2, 2, 1, 1, None)
    )
    return [*costs, *best, *order], [*interference, *others]


def is_measured(record: Record) -> bool:
    """Return whether sums were tried; otherwise everything was foretold."""
    return any(True for _ in record.select("loss"))


def _foretold_sentences(record: Record) -> Iterator[str]:
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        cost = only(record, "cost", data=side, kind="predicted")
        yield (
            f"Foretold: adding {LETTERS[other]} changes the loss of {LETTERS[side]}'s data by {_signed(record, cost)}."
            + _by_chance(record, side, "cost", ("predicted",))
        )
    for side in SIDES:
        base, middle = (_signed(record, _at_one(record, side, kind)) for kind in ("predicted", "middle"))
        yield (
            f"Foretold interference on {LETTERS[side]}'s data: {base} by curvature at the base, {middle} half-way to "
            "the sum." + _by_chance(record, side, "interference", ("predicted", "middle"))
        )
    yield "No sum was tried (--predict-only): how far these predictions hold is not known."


def _by_chance(record: Record, side: str, of: str, kinds: Sequence[str]) -> str:
    """Say how large the same figures are with random singular vectors; empty where that is not known."""
    sizes = [_known(record, "null_size", data=side, of=of, what="value", kind=kind) for kind in kinds]
    if any(size is None for size in sizes):
        return ""
    words = ["foretold" if kind == "predicted" else "half-way" for kind in kinds if kind != "measured"]
    told = [_number(size) for size in sizes]
    first = [] if len(told) == len(words) else [told.pop(0)]
    return f" With random singular vectors: {', '.join([*first, *map(' '.join, zip(words, told, strict=True))])}."


def rows(record: Record) -> list[tuple[str, str, str]]:
    """Return every figure: what it is, and its value on A's data and on B's."""
    return [(what, *(cell(side) for side in SIDES)) for what, cell in _cells(record)]  # type: ignore[misc]


def _cells(record: Record) -> Iterator[tuple[str, Cell]]:
    yield "examples", lambda side: _number(only(record, "examples", data=side).value)
    if is_measured(record):
        for what, s, t in (("base", 0, 0), ("A", 1, 0), ("B", 0, 1), ("A + B", 1, 1)):
            yield f"loss of {what}", lambda side, s=s, t=t: _number(_loss(record, side, s, t))  # type: ignore[misc]
    for (name, of, kind), what in AT_ONE.items():
        if any(True for _ in record.select(name, kind=kind)):
            yield from _beside_null(record, what, name, of, kind)
    if not is_measured(record):
        return
    for kind, what in SOURCES.items():
        yield (
            f"r over the grid, {what}",
            lambda side, kind=kind: _ended(record, only(record, "agreement", data=side, kind=kind)),  # type: ignore[misc]
        )
    for kind, what in SOURCES.items():
        yield f"to 10 % up to, {what}", lambda side, kind=kind: _reach(record, "holds_up_to", side, kind=kind)  # type: ignore[misc]
    yield "sum keeps 90 % up to", lambda side: _reach(record, "keeps_up_to", side)


def _beside_null(record: Record, what: str, name: str, of: str, kind: str) -> Iterator[tuple[str, Cell]]:
    """Yield a figure at scales of 1 with its null and, of a prediction that was tried, how far both are off."""
    yield what, lambda side: _ended(record, only(record, name, data=side, kind=kind))
    yield "  null of it", lambda side: _null(record, data=side, of=of, what="value", kind=kind)
    if any(True for _ in record.select("prediction_error", of=of, kind=kind)):
        yield "  off by", lambda side: _ended(record, only(record, "prediction_error", data=side, of=of, kind=kind))
        yield "  null of that", lambda side: _null(record, data=side, of=of, what="error", kind=kind)


def _best_sentence(record: Record) -> str:
    first, second = (only(record, "best_scale", adapter=side) for side in SIDES)
    losses = [
        " and ".join(_number(only(record, "best_loss", data=side, at=which).value) for side in SIDES)
        for which in ("best", "one", "alone")
    ]
    gain = _signed(record, only(record, "best_gain"))
    edge = ", the edge of the grid" if first.reason else ""
    return (
        f"Best pair by validation: {_number(first.value)} A + {_number(second.value)} B{edge}: held-out losses "
        f"{losses[0]} on A's and B's data; A + B {losses[1]}, from which the best pair gains {gain}; each adapter "
        f"alone on its own data {losses[2]}."
    )


def _order_sentences(record: Record) -> Iterator[str]:
    found = list(record.select("kappa"))
    if found[0].value is None:
        yield f"Order of training: not measured, {found[0].reason}."
        return
    for gradients in ("unit norm", "plain"):
        own = [kappa for kappa in found if kappa.labels["gradients"] == gradients and kappa.value is not None]
        between, *within = (_number(mean(k.value or 0.0 for k in own if k.labels["pair"] == pair)) for pair in PAIRS)
        chance = _known(record, "kappa_chance", gradients=gradients)
        if chance is None:
            yield (
                f"Order of training ({gradients} gradients): mean kappa {between} between the data sets, {within[0]} "
                f"and {within[1]} within them; the version that made this record did not test whether they differ."
            )
            continue
        verdict = "more than" if chance <= LEVEL else "not told from"
        yield (
            f"Order of training ({gradients} gradients): mean kappa {between} between the data sets, {verdict} the "
            f"{within[0]} and {within[1]} within them; so large a difference has a chance of {_number(chance)} if both "
            "are one data set."
        )


def only(record: Record, name: str, **labels: Label) -> Quantity:
    """Return the one quantity of these labels that is no end of an interval.

    Raises:
        InputError: the record has none; an earlier version wrote it.
    """
    for found in record.select(name, **labels):
        if "end" not in found.labels:
            return found
    raise InputError(f"The record of this composition has no {name}: an earlier version wrote it. Compose again.")


def _known(record: Record, name: str, **labels: Label) -> float | None:
    """Return the value of a figure; None also where a record of an earlier version lacks it."""
    return next((found.value for found in record.select(name, **labels) if "end" not in found.labels), None)


def _at_one(record: Record, side: str, kind: str) -> Quantity:
    return only(record, "interference_at_one", data=side, kind=kind)


def _loss(record: Record, side: str, s: float, t: float) -> float | None:
    return only(record, "loss", data=side, s=float(s), t=float(t)).value


def ends_of(record: Record, of: Quantity) -> tuple[float, float] | None:
    """Return the ends of a figure's bootstrap interval, if it has one."""
    low, high = (next((q.value for q in record.select(of.name, **of.labels, end=end)), None) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _ended(record: Record, of: Quantity) -> str:
    if of.value is None:
        return "-"
    ends = ends_of(record, of)
    return _number(of.value) + (f" [{_number(ends[0])}, {_number(ends[1])}]" if ends else "")


def _bare(of: Quantity) -> str:
    return "nothing" if of.value is None else ("+" if of.value > 0 else "") + _number(of.value)


def _signed(record: Record, of: Quantity) -> str:
    if of.value is None:
        return f"an unknown amount ({of.reason})"
    ends = ends_of(record, of)
    told = " (not told from 0)" if ends and ends[0] <= 0 <= ends[1] else ""
    return ("+" if of.value > 0 else "") + _ended(record, of) + told


def _reach(record: Record, name: str, side: str, **labels: Label) -> str:
    found = only(record, name, data=side, **labels)
    if found.value is None:
        return "-"
    if found.labels["censored"]:
        return f"> {_number(found.value)}"
    return f"< {_smallest(record)}" if found.value == 0 else _ended(record, found)


def _smallest(record: Record) -> str:
    return _number(min(float(kept.labels["scale"]) for kept in record.select("kept")))


def _null(record: Record, **labels: Label) -> str:
    """Return the median size of a figure's null, and how many of its draws are smaller than the figure."""
    draws, share = len(list(record.select("null_draw", **labels))), _known(record, "null_rank", **labels)
    if share is None or _known(record, "null_size", **labels) is None:
        return "-"
    return f"{_ended(record, only(record, 'null_size', **labels))} {round(share * draws)}/{draws}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"
