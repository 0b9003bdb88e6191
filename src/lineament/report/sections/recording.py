"""Pictures and tables of a recorded training run: what its first updates hold, and how long directions last."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.advice import Advice, advise
from lineament.records import Label, Record
from lineament.report.drawing import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION
from lineament.report.sections.recovery import STYLES
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    Table,
    estimate,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, basis_label, group_of

NAME = "recording"
SPACES = {"parameters": "as recorded", "lora_effective": "in dW"}
DEFINED = {"whole": "whole way", "rest": "rest: less what the basis is made of"}
DIRECTION_STYLES = (
    Style(VERMILLION),
    Style(BLUE, symbol="square"),
    Style(GREEN, symbol="diamond"),
    Style(PURPLE, symbol="star"),
)
MOST_MODULES = 40
WHOLE: dict[str, Label] = {"definition": "whole", "at": "end", "space_of": "parameters"}


def span_picture(records: Sequence[Record]) -> Picture | None:
    """Capture against rank, whole and rest as recorded, and whole in dW where there is one."""
    sources = of(records, NAME)
    if not select(sources, "capture", at="end"):
        return None
    spaces = [str(space) for space in label_values(sources, "capture", "space_of")]
    shown = [("parameters", "whole"), ("parameters", "rest"), ("lora_effective", "whole")]
    panels = [_capture_panel(sources, space, definition) for space, definition in shown if space in spaces]
    held = estimate(select(sources, "capture", basis="prefix", rank=10, **WHOLE), fraction=True)
    title = "How much of the run its first updates hold"
    if held.mean is not None:
        title = f"The first 10 recorded updates hold {100 * held.mean:.0f} % of the whole way"
    return Picture("recording-capture", title, CAPTIONS["recording-capture"], panels, sources)


def planes_picture(records: Sequence[Record]) -> Picture | None:
    """Overlap of planes of recorded rows against lag, early and late in the run, with ceiling and floor."""
    sources = of(records, NAME)
    if not select(sources, "plane_overlap"):
        return None
    panels = [_plane_panel(sources, phase) for phase in ("early", "late")]
    panels = [panel for panel in panels if panel.lines]
    rows = label_values(sources, "plane_overlap", "rows")
    title = f"How long the plane of {' and '.join(map(str, rows))} stays the same"
    return Picture("recording-planes", title, CAPTIONS["recording-planes"], panels, sources)


def staleness_picture(records: Sequence[Record]) -> Picture | None:
    """Cosine of directions of one step with those of later steps."""
    sources = of(records, NAME)
    panels = []
    for quantity, title in (("task_vector_cosine", "task vectors"), ("direction_cosine", "weight steps")):
        shares = label_values(sources, quantity, "share")
        lines = [line for i, share in enumerate(shares) for line in _stale_lines(sources, quantity, share, i)]
        if lines:
            x_title = "later time (% of the run)"
            panel = Panel(title, x_title, "cosine", lines, fraction=False, x_name="time", y_range=(-0.1, 1.05))
            panels.append(panel)
    if not panels:
        return None
    title = "How stale a direction of one step is later in the run"
    return Picture("recording-stale", title, CAPTIONS["recording-stale"], panels, sources)


def recording_tables(records: Sequence[Record]) -> list[Table | None]:
    """What it means in practice, and the ranks of single modules."""
    return [advice_table(records), module_table(records)]


def advice_table(records: Sequence[Record]) -> Table | None:
    """Every line of `lineament advise`."""
    sources = of(records, NAME)
    if not sources:
        return None
    rows = [
        (line.text, _value(line), _interval(line), _null(line), line.topic, line.figure) for line in advise(sources)
    ]
    columns = ("what", "value", "95 % interval", "null", "answers", "figure it came from")
    note = "Interval: Student t over recordings; of one recording, where it says so, the spread within the run."
    return Table("What the recording says about practice", columns, rows, note)


def module_table(records: Sequence[Record]) -> Table | None:
    """Effective rank of dW per adapted weight."""
    sources = of(records, NAME)
    modules = [str(module) for module in label_values(sources, "module_rank", "module")]
    if not modules:
        return None
    rows = []
    for module in modules[:MOST_MODULES]:
        found = [select(sources, "module_rank", module=module, statistic=s) for s in ("participation_ratio", "k90")]
        nulls = [f.null for f in found[0] if f.null is not None]
        cells = [estimate(figures, fraction=False).text for figures in found]
        rows.append((module, number(float(found[0][0].labels["paid"])), *cells, number(nulls[0]) if nulls else "-"))
    more = len(modules) - len(rows)
    note = f"{more} more modules are in the records." if more else ""
    columns = ("module", "LoRA rank", "participation ratio", "k90", "null (Gaussian factors): participation ratio")
    return Table("Directions that dW used in each adapted weight", columns, rows, note)


def _capture_panel(sources: list[Record], space: str, definition: str) -> Panel:
    figures = select(sources, "capture", definition=definition, at="end", space_of=space)
    ranks = sorted({int(f.labels["rank"]) for f in figures})
    names = [name for name in STYLES if any(f.labels["basis"] == name for f in figures)]
    labels: dict[str, Label] = {"definition": definition, "at": "end", "space_of": space}
    lines = [_capture_line(sources, name, ranks, labels) for name in names]
    if definition == "whole":
        nulls = [_mean_null(sources, rank, labels) for rank in ranks]
        lines.append(Line("share", "k / T", "reference", Style(GREY, width=1.2), ranks, nulls, mode="plain"))
    title = f"{DEFINED[definition]}, {SPACES[space]}"
    return Panel(title, "rank k (directions)", "captured (fraction)", lines, x_log=True, ticks=ranks, x_name="rank")


def _capture_line(sources: list[Record], name: str, ranks: list[int], labels: dict[str, Label]) -> Line:
    points = [estimate(select(sources, "capture", basis=name, rank=rank, **labels), fraction=True) for rank in ranks]
    return Line(name, basis_label(name), group_of(name), STYLES[name], ranks, points)


def _mean_null(sources: list[Record], rank: int, labels: dict[str, Label]) -> Estimate:
    nulls = [f.null for f in select(sources, "capture", basis="prefix", rank=rank, **labels) if f.null is not None]
    return Estimate(sum(nulls) / len(nulls), n_seeds=len(nulls)) if nulls else Estimate(None)


def _plane_panel(sources: list[Record], phase: str) -> Panel:
    lags = sorted({int(f.labels["lag"]) for f in select(sources, "plane_overlap", **{"from": phase})})
    looks = {
        "plane_overlap": ("overlap", Style(VERMILLION, width=3)),
        "plane_ceiling": ("ceiling (no drift)", Style(BLACK, "dash", "square")),
    }
    lines = [
        Line(quantity, label, "drift", style, lags, [_at_lag(sources, quantity, phase, lag) for lag in lags])
        for quantity, (label, style) in looks.items()
        if lags
    ]
    title = f"windows that start {'in the first third' if phase == 'early' else 'later'}"
    return Panel(title, "lag (optimizer steps)", "overlap (fraction)", lines, x_name="lag")


def _at_lag(sources: list[Record], quantity: str, phase: str, lag: int) -> Estimate:
    labels: dict[str, Label] = {"from": phase, "lag": lag}
    return estimate(select(sources, quantity, **labels), fraction=True)


def _stale_lines(sources: list[Record], quantity: str, share: Label, index: int) -> list[Line]:
    spaced = "parameters" in label_values(sources, quantity, "space_of")
    where: dict[str, Label] = {"space_of": "parameters"} if spaced else {}
    figures = select(sources, quantity, share=share, **where)
    later = sorted({float(f.labels["at_share"]) for f in figures})
    points = [estimate([f for f in figures if f.labels["at_share"] == at], fraction=False) for at in later]
    style, x, name = DIRECTION_STYLES[index % len(DIRECTION_STYLES)], [100 * at for at in later], f"{float(share):.0%}"
    lines = [Line(f"stale-{name}", f"of {name} of the run", "direction of", style, x, points)]
    if quantity == "task_vector_cosine":
        nulls = [Estimate(next(f.null for f in figures if f.labels["at_share"] == at)) for at in later]
        look = Style(style.color, "dot", width=1.2)
        lines.append(Line(f"null-{name}", f"of {name}, independent updates", "null", look, x, nulls, mode="plain"))
    return lines


def _value(line: Advice) -> str:
    if line.value is None:
        return f"undefined: {line.reason}"
    return f"{number(line.value)} {line.unit}" + (f" ({line.reason})" if line.reason else "")


def _interval(line: Advice) -> str:
    if line.low is None or line.high is None:
        return f"none: {line.interval}" if line.value is not None else ""
    return f"[{number(line.low)}, {number(line.high)}] over {line.interval}".replace("over within", "within")


def _null(line: Advice) -> str:
    return "-" if line.null is None else number(line.null)
