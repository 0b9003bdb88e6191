"""Tables of a report: damage effects, spaces side by side, spectra, definitions and reasons for what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lineament.records import Label, Quantity, Record
from lineament.report.sections.recovery import capture_at, shown_rank
from lineament.report.series import Estimate, Table, estimate, label_values, of, select
from lineament.report.words import BASES, NULLS, POINTS, basis_label

PLAIN_ROWS = 300


@dataclass(frozen=True)
class Definition:
    """What a quantity is: its sentence, units and null."""

    quantity: str
    text: str
    unit: str
    null: str


def definitions(sources: Sequence[Record], only: Sequence[str] | None = None) -> list[Definition]:
    """Definitions of the quantities of some records, each once."""
    texts = {quantity: text for record in sources for quantity, text in record.definitions.items()}
    chosen = [quantity for quantity in texts if only is None or quantity in only]
    return [Definition(q, texts[q], _units(sources, q), _null(sources, q)) for q in chosen]


def missing_reasons(sources: Sequence[Record]) -> list[str]:
    """Why a measurement has nothing to draw, per seed; each reason once per quantity."""
    found = [
        f"Seed {record.seed}: {figure.name.replace('_', ' ')} is undefined: {figure.reason}."
        for record in sources
        for figure in record.quantities
        if figure.value is None and figure.reason
    ]
    return list(dict.fromkeys(found))


def evaluation_table(sources: Sequence[Record]) -> Table | None:
    """Accuracy and loss of every task at the four points."""
    tasks = [str(task) for task in label_values(sources, "evaluation", "task")]
    if not tasks:
        return None
    points = [point for point in POINTS if point in label_values(sources, "evaluation", "point")]

    def cell(task: str, point: str, statistic: str) -> str:
        found = select(sources, "evaluation", task=task, point=point, statistic=statistic)
        return estimate(found, fraction=statistic == "accuracy").text

    target = sources[0].target
    rows = [
        (f"{task} (damaged)" if task == target else task, statistic, *(cell(task, p, statistic) for p in points))
        for statistic in ("accuracy", "loss")
        for task in tasks
    ]
    note = "Accuracy is a fraction, loss is in nats per target token; mean and 95 % interval over seeds."
    columns = ("task", "statistic", *(POINTS[point] for point in points))
    return Table("What damage and recovery did to every task", columns, rows, note)


def space_table(records: Sequence[Record], rank: int) -> Table | None:
    """Captures in effective weights dW beside those in LoRA factors; None when there is no adapter."""
    sources = of(records, "basis_capture")
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


def _start_shares(sources: Sequence[Record]) -> str:
    """Where the static basis near the start lies: in a fresh adapter only B has a gradient."""
    shares = [estimate(select(sources, "start_basis_share", factor=factor), fraction=True) for factor in ("A", "B")]
    if any(share.mean is None for share in shares):
        return ""
    a, b = (share.value_text if share.low is None else share.text for share in shares)
    return f" Of the task plane near the start, {a} lies in the factors A and {b} in B."


def later_table(records: Sequence[Record], rank: int) -> Table | None:
    """Captures at T beside those at 2 T, whole and rest; None when only T was measured."""
    sources = of(records, "basis_capture")
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


def krylov_table(records: Sequence[Record]) -> Table | None:
    """Overlap of Krylov spaces with the prefix at every rank, with its null."""
    sources = of(records, "basis_capture")
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


def spectrum_table(records: Sequence[Record]) -> Table | None:
    """Effective ranks at the largest n, uncentred raw gradients, beside shuffled labels."""
    sources = of(records, "gradient_rank")
    sizes = [int(n) for n in label_values(sources, "k90", "n")]
    if not sizes:
        return None
    rows = [
        _spectrum_row(sources, quantity, point, kind, max(sizes))
        for quantity in ("k90", "participation_ratio", "entropy_rank", "stable_rank", "mean_cosine")
        for point in ("broken", "star")
        for kind in ("minibatch", "example")
    ]
    columns = ("quantity", "point", "gradients", "true labels", "null: shuffled labels")
    note = "Uncentred, raw norms; in directions (mean cosine: a cosine). Other variants are in the records."
    return Table(f"Effective ranks of {max(sizes)} gradients", columns, rows, note)


def plain_table(sources: Sequence[Record]) -> Table:
    """All figures over seeds, one row for each set of labels."""
    groups: dict[tuple[str, str, str], list[Quantity]] = {}
    for record in sources:
        for figure in record.quantities:
            which = ", ".join(f"{key} {value}" for key, value in sorted(figure.labels.items()))
            groups.setdefault((figure.name, which, figure.unit), []).append(figure)
    rows = [
        (quantity, which, estimate(found, fraction=False).text, unit, null_of(found).text)
        for (quantity, which, unit), found in list(groups.items())[:PLAIN_ROWS]
    ]
    note = f"The first {PLAIN_ROWS} of {len(groups)} figures; the records hold all." if len(groups) > PLAIN_ROWS else ""
    columns = ("quantity", "which", "value and 95 % interval", "unit", "null")
    return Table("Figures", columns, rows, note)


def null_of(found: Sequence[Quantity]) -> Estimate:
    """Mean of the nulls that stand beside some figures."""
    nulls = [Quantity(f.name, f.null, f.unit) for f in found if f.null is not None]
    if not nulls:
        return Estimate(None, reason="none")
    return estimate(nulls, fraction=False)


def _undefined(rows: Mapping[str, Sequence[Estimate]]) -> list[str]:
    """Why cells of a table are undefined: one sentence per reason, with the rows that have it."""
    labels: dict[str, list[str]] = {}
    for label, row in rows.items():
        for why in dict.fromkeys(e.reason or "not measured" for e in row if e.mean is None):
            labels.setdefault(why, []).append(label)
    return [f"Undefined ({', '.join(names)}): {why}." for why, names in labels.items()]


def _spectrum_row(sources: Sequence[Record], quantity: str, point: str, kind: str, n: int) -> tuple[str, ...]:
    labels: dict[str, Label] = {"point": point, "gradients": kind, "labels": "true"}
    if quantity != "mean_cosine":
        labels |= {"n": n, "centred": "False", "unit_norm": "False"}
    found = select(sources, quantity, **labels)
    values = estimate(found, fraction=False).text, null_of(found).text
    return (quantity.replace("_", " "), POINTS[point], kind, *values)


def _units(sources: Sequence[Record], quantity: str) -> str:
    units = {f.unit for record in sources for f in record.select(quantity)}
    return ", ".join(sorted(units)) or "not measured in this run"


def _null(sources: Sequence[Record], quantity: str) -> str:
    if quantity in NULLS:
        return NULLS[quantity]
    beside = any(f.null is not None for record in sources for f in record.select(quantity))
    return "beside each figure in the records" if beside else "none"
