"""What `lineament compose` prints: sentences first, then a table of figures for each data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.commands.terminal import console
from lineament.merging.composition_record import SIDES
from lineament.records import Label, Quantity, Record

LETTERS = {"first": "A", "second": "B"}
Cell = Callable[[str], str]


def print_composition(record: Record) -> None:
    """Print sentences and the table; results go to stdout."""
    names = {side: str(_only(record, "adapter", adapter=side).labels["name"]) for side in SIDES}
    console.print(Text.assemble((record.model, "bold"), f": A = {names['first']}, B = {names['second']}"))
    for sentence in sentences(record):
        console.print(sentence)
    console.print(figures_table(record))
    console.print("Losses in nats per target token; [ ]: 95 %, bootstrap over examples. Null: B's singular")
    console.print("values with random singular vectors; median size, and how many draws are smaller.")


def sentences(record: Record) -> Iterator[str]:
    """Say what adding the adapters does, what was foreseen, which scales are best, and whether order matters."""
    for side in SIDES:
        measured, guessed = (_at_one(record, side, kind) for kind in ("measured", "predicted"))
        yield (
            f"On {LETTERS[side]}'s data the two interfere by {_signed(record, measured)} at scales 1 and 1; "
            f"curvature at the base said {_signed(record, guessed)}."
        )
    yield _best_sentence(record)
    yield from _order_sentences(record)


def figures_table(record: Record) -> Table:
    """Tabulate every figure with a column for each data set."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for side in SIDES:
        name = _only(record, "examples", data=side).labels["name"]
        table.add_column(f"{LETTERS[side]}'s data: {name}", overflow="fold")
    for what, cell in _rows(record):
        table.add_row(what, *(cell(side) for side in SIDES))
    return table


def _rows(record: Record) -> Iterator[tuple[str, Cell]]:
    yield "examples", lambda side: _number(record.value("examples", data=side))
    for what, s, t in (("base", 0, 0), ("A", 1, 0), ("B", 0, 1), ("A + B", 1, 1)):
        yield f"loss of {what}", lambda side, s=s, t=t: _number(_loss(record, side, s, t))  # type: ignore[misc]
    for kind in ("measured", "predicted"):
        yield (
            f"interference at 1, 1, {kind}",
            lambda side, kind=kind: _ended(record, _at_one(record, side, kind)),  # type: ignore[misc]
        )
        yield f"  null, {kind}", lambda side, kind=kind: _null(record, side, kind)  # type: ignore[misc]
    yield "correlation over the grid", lambda side: _ended(record, _plain(record, "agreement", side))
    yield "predicted to 10 % up to scale", lambda side: _reach(record, "holds_up_to", side)
    yield "A + B keeps 90 % up to scale", lambda side: _reach(record, "keeps_up_to", side)


def _best_sentence(record: Record) -> str:
    first, second = (_only(record, "best_scale", adapter=side) for side in SIDES)
    losses = [
        " and ".join(_number(_plain(record, "best_loss", side, at=which).value) for side in SIDES)
        for which in ("best", "one", "alone")
    ]
    gain = _signed(record, _plain(record, "best_gain"))
    edge = ", the edge of the grid" if first.reason else ""
    return (
        f"Best pair by validation: {_number(first.value)} A + {_number(second.value)} B{edge}: held-out losses "
        f"{losses[0]}; at 1 and 1 {losses[1]} (less by {gain}, mean of both); each adapter alone {losses[2]}."
    )


def _order_sentences(record: Record) -> Iterator[str]:
    found = list(record.select("kappa"))
    if found[0].value is None:
        yield f"Order of training: not measured, {found[0].reason}."
        return
    for gradients in ("unit norm", "plain"):
        own = [kappa for kappa in found if kappa.labels["gradients"] == gradients and kappa.value is not None]
        values = {pair: [k.value or 0.0 for k in own if k.labels["pair"] == pair] for pair in _PAIRS}
        between = sum(values["between"]) / len(values["between"])
        within = [*values["within_first"], *values["within_second"]]
        verdict = "more than" if between > max(within) else "not more than"
        yield (
            f"Order of training ({gradients} gradients): kappa {_number(between)} between the data sets, {verdict} "
            f"within each ({_number(within[0])} and {_number(within[1])})."
        )


_PAIRS = ("between", "within_first", "within_second")


def _only(record: Record, name: str, **labels: Label) -> Quantity:
    """Return the one quantity of these labels that is no end of an interval."""
    return next(found for found in record.select(name, **labels) if "end" not in found.labels)


def _plain(record: Record, name: str, side: str = "", **labels: Label) -> Quantity:
    return _only(record, name, **({"data": side} if side else {}), **labels)


def _at_one(record: Record, side: str, kind: str) -> Quantity:
    return _only(record, "interference_at_one", data=side, kind=kind)


def _loss(record: Record, side: str, s: float, t: float) -> float | None:
    return _only(record, "loss", data=side, s=float(s), t=float(t)).value


def _ends(record: Record, of: Quantity) -> tuple[float, float] | None:
    low, high = (next((q.value for q in record.select(of.name, **of.labels, end=end)), None) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _ended(record: Record, of: Quantity) -> str:
    if of.value is None:
        return "-"
    ends = _ends(record, of)
    return _number(of.value) + (f" [{_number(ends[0])}, {_number(ends[1])}]" if ends else "")


def _signed(record: Record, of: Quantity) -> str:
    if of.value is None:
        return f"an unknown amount ({of.reason})"
    return ("+" if of.value > 0 else "") + _ended(record, of)


def _reach(record: Record, name: str, side: str) -> str:
    found = _plain(record, name, side)
    if found.value is None:
        return "-"
    if found.labels["censored"]:
        return f"> {_number(found.value)}"
    return f"< {_smallest(record)}" if found.value == 0 else _ended(record, found)


def _smallest(record: Record) -> str:
    return _number(min(float(kept.labels["scale"]) for kept in record.select("kept")))


def _null(record: Record, side: str, kind: str) -> str:
    sizes = sorted(
        abs(q.value) for q in record.select("null_interference", data=side, kind=kind) if q.value is not None
    )
    share = record.value("interference_rank", data=side, kind=kind)
    if not sizes or share is None:
        return "-"
    middle = (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2
    return f"{_number(middle)} ({round(share * len(sizes))} of {len(sizes)})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"
