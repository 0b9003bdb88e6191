"""Captures of the recovery by rank: every basis, control and null, whole and rest side by side."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import Estimate, blind_of, estimate, label_integers, label_texts, select
from lineament.report.sections.bases import basis_label, group_of, in_order, is_static, style_of
from lineament.report.series import GREY, Line, Panel, Picture, Style

SHOWN = (
    "prefix", "trajectory_top", "control_random_times", "control_preconditioned", "control_other_data",
    "null_noise_prefix", "random",
)  # fmt: skip
BEST_STATICS_SHOWN = 2
# Bars of every line would hide each other: these and the best fixed plane, which the verdicts compare, have them.
WITH_BARS = ("prefix", "null_noise_prefix")
# What the same optimizer gives on gradients that know nothing, and how its line is dashed.
BLIND = {
    "prefix": ("blind run: first k updates", "dot"),
    "control_random_times": ("blind run: k updates at random times", "dash"),
}
DEFINED = {
    "whole": "whole recovery",
    "rest": "rest: without what the basis is made of",
}
CAPTION = (
    "Share of the recovery's displacement (from the damaged to the recovered point) that lies inside a subspace of k "
    "directions: 1 means all of it. The right panel leaves out the updates that a basis was made of, because the "
    "basis holds them by construction. The thin grey lines are a blind run: the same optimizer for as many steps on "
    "gradients that know nothing. The top k directions of all updates are a reference, not a bound. Bars (95 % "
    "interval over seeds) are drawn only for the first k updates, the best fixed plane and the updates on shuffled "
    "labels; the intervals of all other series are in the data table and appear on hover."
)


def capture_picture(sources: Sequence[Record], rank: int) -> Picture | None:
    """Draw the capture against rank for every basis, control and null."""
    used = shown_rank(sources, "capture", rank)
    if used is None:
        return None
    best = best_statics(sources, used)
    panels = [_capture_panel(sources, definition, best) for definition in DEFINED]
    return Picture("capture", _title(sources, used, best), CAPTION, panels, sources)


def shown_rank(records: Sequence[Record], name: str, wanted: int) -> int | None:
    """Return `wanted`, or the nearest smaller rank that has a value in some seed (else the smallest)."""
    ranks = [int(q.labels["rank"]) for q in select(records, name) if q.value is not None and "rank" in q.labels]
    return max((r for r in ranks if r <= wanted), default=min(ranks, default=None))


def own_rank(records: Sequence[Record], basis: str, wanted: int) -> int | None:
    """Return `wanted`, or the full rank of a basis of fewer directions: the largest at which it was captured."""
    captures = select(records, "capture", basis=basis, definition="whole", at="T", space_of="parameters")
    ranks = [int(capture.labels["rank"]) for capture in captures if capture.value is not None]
    return max((r for r in ranks if r <= wanted), default=None)


def capture_at(
    records: Sequence[Record], basis: str, rank: int, definition: str, space: str = "parameters", at: str = "T"
) -> Estimate:
    """Return the capture by one basis over seeds, at T or at T_loss."""
    return estimate(captures(records, basis, rank, definition, space, at), fraction=True)


def captures(
    records: Sequence[Record], basis: str, rank: int, definition: str, space: str = "parameters", at: str = "T"
) -> list[Quantity]:
    """Return the captures by one basis, one per seed."""
    labels: dict[str, Label] = {"basis": basis, "rank": rank, "definition": definition, "at": at, "space_of": space}
    return list(select(records, "capture", **labels))


def best_statics(records: Sequence[Record], rank: int) -> list[str]:
    """Return the static bases by their mean whole capture at `rank` or their full rank below it, best first."""
    statics = filter(is_static, in_order(label_texts(records, "capture", "basis")))
    ranks = {name: own for name in statics if (own := own_rank(records, name, rank)) is not None}
    means = {name: capture_at(records, name, own, "whole").mean for name, own in ranks.items()}
    known = {name: mean for name, mean in means.items() if mean is not None}
    return sorted(known, key=lambda name: -known[name])


def _capture_panel(sources: Sequence[Record], definition: str, best: list[str]) -> Panel:
    ranks = _common_ranks(sources)
    shown = {*SHOWN, *best[:BEST_STATICS_SHOWN]}
    barred = {*WITH_BARS, *best[:1]}
    lines = [
        Line(
            name,
            basis_label(name),
            group_of(name),
            style_of(name),
            ranks,
            [capture_at(sources, name, rank, definition) for rank in ranks],
            shown=name in shown,
            bars=name in barred,
        )
        for name in in_order(label_texts(sources, "capture", "basis"))
    ]
    lines += [_blind_line(sources, name, definition, ranks) for name in BLIND]
    x_title, y_title = "rank k (directions)", "captured (fraction)"
    return Panel(DEFINED[definition], x_title, y_title, lines, x_log=True, ticks=ranks, x_name="rank")


def _common_ranks(sources: Sequence[Record]) -> list[int]:
    """Return the ranks that all seeds have: a basis of few directions adds its own rank to its seed's."""
    counts = {
        rank: len(captures(sources, "prefix", rank, "whole")) for rank in label_integers(sources, "capture", "rank")
    }
    return [rank for rank, count in counts.items() if count == max(counts.values())]


def _blind_line(sources: Sequence[Record], basis: str, definition: str, ranks: list[int]) -> Line:
    values = [blind_of(captures(sources, basis, rank, definition)) for rank in ranks]
    label, dash = BLIND[basis]
    return Line(f"blind-{basis}", label, "null", Style(GREY, dash, width=1.2), ranks, values, mode="plain")


def _title(sources: Sequence[Record], rank: int, best: list[str]) -> str:
    prefix = capture_at(sources, "prefix", rank, "whole").mean
    own = own_rank(sources, best[0], rank) if best else None
    static = capture_at(sources, best[0], own, "whole").mean if own else None
    if prefix is None or static is None:
        return "How much of the recovery lies in k directions"
    captured = f"The first {rank} updates capture {100 * prefix:.0f} % of the recovery"
    random = capture_at(sources, "control_random_times", rank, "whole").mean
    control = "" if random is None else f", {rank} at random times {100 * random:.0f} %"
    return f"{captured}{control}, the best fixed plane {100 * static:.0f} %"
