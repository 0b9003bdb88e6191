"""Tables of captures: beside a blind run, at T and T_loss, in factors and in effective weights, and Krylov overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import (
    Estimate,
    blind_of,
    estimate,
    estimate_values,
    label_integers,
    label_texts,
    null_of,
    select,
)
from lineament.report.sections.bases import basis_label, in_order
from lineament.report.sections.basis_capture.captures import capture_at, captures, shown_rank
from lineament.report.series import Table


def blind_table(sources: Sequence[Record], rank: int) -> Table | None:
    """Tabulate captures by the recovery's own updates beside those of a blind run; None where there is no blind value.

    A blind run is the same optimizer, step sizes and number of steps on gradients that know nothing.
    """
    used = shown_rank(sources, "capture", rank)
    rows = [
        (basis_label(basis), definition, estimate(own, fraction=True).text, blind_of(own).value_text, _excess(own))
        for basis in ("prefix", "control_random_times", "control_other_data")
        for definition in ("whole", "rest", "rest_gap")
        for own in [captures(sources, basis, used or 0, definition)]
        if any(capture.blind is not None for capture in own)
    ]
    rows += [
        (f"{used} updates {which}", "whole", estimate(own, fraction=True).text, blind_of(own).value_text, _excess(own))
        for which, own in _windows(sources)
    ]
    if not rows:
        return None
    note = (
        "Excess: (captured - blind) / (1 - blind), 0 for a blind run and 1 for everything. rest leaves out the updates "
        "that a basis was made of, rest_gap the first k + 10 as well. Fractions; mean and 95 % interval over seeds."
    )
    columns = ("basis", "definition", "captured", "blind run", "excess")
    return Table(f"What the recovery's updates hold beyond a blind run, rank {used}", columns, rows, note)


def _windows(sources: Sequence[Record]) -> list[tuple[str, list[Quantity]]]:
    """Return the first, second, middle and last windows of successive updates that every seed has, by their steps."""
    starts = label_integers(sources, "window_capture", "from_step")
    chosen = dict.fromkeys(starts[i] for i in (0, 1, len(starts) // 2, -1)) if len(starts) > 3 else starts
    labels: dict[str, Label] = {"definition": "whole", "at": "T"}
    return [(f"from step {s}", list(select(sources, "window_capture", from_step=s, **labels))) for s in chosen]


def _excess(own: Sequence[Quantity]) -> str:
    values = [capture.excess for capture in own if capture.excess is not None]
    return estimate_values(values, fraction=False).text if values else "undefined"


def later_table(sources: Sequence[Record], rank: int) -> Table | None:
    """Tabulate captures at T beside those at T_loss, whole and rest; None when only T was measured."""
    used = shown_rank(sources, "capture", rank)
    if used is None or "T_loss" not in label_texts(sources, "capture", "at"):
        return None
    columns = [(definition, at) for definition in ("whole", "rest") for at in ("T", "T_loss")]
    measured = {
        basis_label(basis): [capture_at(sources, basis, used, definition, at=at) for definition, at in columns]
        for basis in in_order(label_texts(sources, "capture", "basis"))
    }
    rows = [(label, *("undefined" if e.mean is None else e.text for e in row)) for label, row in measured.items()]
    heads = ("basis", *(f"{definition}, at {at}" for definition, at in columns))
    note = (
        "T is the same for every seed; at T_loss 95 % of the loss gap to the trained model is closed. Fractions; mean "
        "and 95 % interval over seeds."
    )
    return Table(f"Captures at T and at T_loss, rank {used}", heads, rows, " ".join([note, *_undefined(measured)]))


def space_table(sources: Sequence[Record], rank: int) -> Table | None:
    """Tabulate captures in effective weights dW beside those in LoRA factors; None when there is no adapter."""
    effective = select(sources, "capture", space_of="lora_effective")
    used = shown_rank(sources, "capture", rank)
    if not effective or used is None:
        return None
    rows = [
        (
            basis_label(basis),
            definition,
            capture_at(sources, basis, used, definition).text,
            capture_at(sources, basis, used, definition, "lora_effective").text,
        )
        for basis in dict.fromkeys(str(capture.labels["basis"]) for capture in effective)
        for definition in ("whole", "rest")
    ]
    note = (
        "The factors A and B can be transformed without changing the model, which changes captures in factor space; "
        "effective weights dW = scale B A do not have that freedom. Only bases made of updates exist in both."
        f"{_start_shares(sources)}"
    )
    columns = ("basis", "definition", "LoRA factors A, B", "effective weights dW")
    return Table(f"Captures at rank {used} in two spaces", columns, rows, note)


def krylov_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the overlap of Krylov spaces with the first updates at every rank, with its null."""
    name = "krylov_prefix_overlap"
    rows = [
        (basis_label(basis), str(rank), estimate(overlaps, fraction=True).text, null_of(overlaps).text)
        for basis in label_texts(sources, name, "basis")
        for rank in label_integers(sources, name, "rank")
        for overlaps in [select(sources, name, basis=basis, rank=rank)]
    ]
    if not rows:
        return None
    columns = ("Krylov space", "rank", "overlap (fraction)", "null: with updates on shuffled labels")
    return Table("Do curvature and gradient predict the first updates?", columns, rows)


def _start_shares(sources: Sequence[Record]) -> str:
    """Say where the static basis near the start lies: in a fresh adapter only B has a gradient."""
    shares = [estimate(select(sources, "start_basis_share", factor=factor), fraction=True) for factor in ("A", "B")]
    if any(share.mean is None for share in shares):
        return ""
    a, b = (share.value_text if share.low is None else share.text for share in shares)
    return f" Of the task plane near the start, {a} lies in the factors A and {b} in B."


def _undefined(rows: Mapping[str, Sequence[Estimate]]) -> list[str]:
    """Say why cells of a table are undefined: one sentence per reason, with the rows that have it."""
    labels: dict[str, list[str]] = {}
    for label, row in rows.items():
        for reason in dict.fromkeys(e.reason or "not measured" for e in row if e.mean is None):
            labels.setdefault(reason, []).append(label)
    return [f"Undefined ({', '.join(names)}): {reason}." for reason, names in labels.items()]
