"""Tables of captures: at T and 2 T, in factors and in effective weights, and Krylov overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, label_values, null_of, select
from lineament.report.sections.bases import BASES, basis_label
from lineament.report.sections.basis_capture.captures import capture_at, shown_rank
from lineament.report.series import Table


def later_table(sources: Sequence[Record], rank: int) -> Table | None:
    """Captures at T beside those at 2 T, whole and rest; None when only T was measured."""
    used = shown_rank(sources, "capture", rank)
    if used is None or "2T" not in label_values(sources, "capture", "at"):
        return None
    columns = [(definition, at) for definition in ("whole", "rest") for at in ("T", "2T")]
    measured = label_values(sources, "capture", "basis")
    found = {
        basis_label(basis): [capture_at(sources, basis, used, definition, at=at) for definition, at in columns]
        for basis in BASES
        if basis in measured
    }
    rows = [(label, *("undefined" if e.mean is None else e.text for e in row)) for label, row in found.items()]
    heads = ("basis", *(f"{definition}, at {at.replace('2T', '2 T')}" for definition, at in columns))
    note = (
        "At 2 T the way back is the displacement after twice as many steps: updates after T go on moving the weights "
        "although accuracy is back. Fractions; mean and 95 % interval over seeds."
    )
    return Table(f"Captures at T and 2 T, rank {used}", heads, rows, " ".join([note, *_undefined(found)]))


def space_table(sources: Sequence[Record], rank: int) -> Table | None:
    """Captures in effective weights dW beside those in LoRA factors; None when there is no adapter."""
    effective = [f for r in sources for f in r.select("capture", space_of="lora_effective")]
    used = shown_rank(sources, "capture", rank)
    if not effective or used is None:
        return None
    bases = list(dict.fromkeys(str(f.labels["basis"]) for f in effective))
    spaces = ("parameters", "lora_effective")
    rows = [
        (basis_label(basis), definition, *(capture_at(sources, basis, used, definition, s).text for s in spaces))
        for basis in bases
        for definition in ("whole", "rest")
    ]
    note = (
        "Factors A and B can be rewritten without changing the model, which moves captures in factor space; effective "
        "weights dW = scale B A do not have that freedom. Only bases made of updates exist in both."
        f"{_start_shares(sources)}"
    )
    columns = ("basis", "definition", "LoRA factors A, B", "effective weights dW")
    return Table(f"Captures at rank {used} in two spaces", columns, rows, note)


def krylov_table(sources: Sequence[Record]) -> Table | None:
    """Overlap of Krylov spaces with the prefix at every rank, with its null."""
    ranks = label_values(sources, "krylov_prefix_overlap", "rank")
    bases = label_values(sources, "krylov_prefix_overlap", "basis")
    rows = []
    for basis in bases:
        for rank in ranks:
            found = select(sources, "krylov_prefix_overlap", basis=basis, rank=rank)
            rows.append((basis_label(str(basis)), str(rank), estimate(found, fraction=True).text, null_of(found).text))
    if not rows:
        return None
    columns = ("Krylov space", "rank", "overlap (fraction)", "null: with updates on shuffled labels")
    return Table("Do curvature and gradient foretell the first updates?", columns, rows)


def _start_shares(sources: Sequence[Record]) -> str:
    """Where the static basis near the start lies: in a fresh adapter only B has a gradient."""
    shares = [estimate(select(sources, "start_basis_share", factor=factor), fraction=True) for factor in ("A", "B")]
    if any(share.mean is None for share in shares):
        return ""
    a, b = (share.value_text if share.low is None else share.text for share in shares)
    return f" Of the task plane near the start, {a} lies in the factors A and {b} in B."


def _undefined(rows: Mapping[str, Sequence[Estimate]]) -> list[str]:
    """Why cells of a table are undefined: one sentence per reason, with the rows that have it."""
    labels: dict[str, list[str]] = {}
    for label, row in rows.items():
        for why in dict.fromkeys(e.reason or "not measured" for e in row if e.mean is None):
            labels.setdefault(why, []).append(label)
    return [f"Undefined ({', '.join(names)}): {why}." for why, names in labels.items()]
