"""Draw what recording and analysing cost, from the tables of `benchmarks/scaling.py` in RESULTS.md.

    python benchmarks/scaling_picture.py            rewrite docs/images/scaling.svg
    python benchmarks/scaling_picture.py --check    exit 1 if the picture is not that of the tables

Three panels with logarithmic axes: seconds against parameters, steps and rank, one of them varied at a time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from make_images import BLUE, GREEN, INK, RED, SOFT, Point, card, line, text  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "scaling.svg"
HEAD = "| n_params | steps | rank |"
# Column of the table -> (label, factor to seconds, colour).
STAGES = {
    "append_ms": ("an append", 1e-3, SOFT),
    "gram_s": ("Gram matrix", 1.0, BLUE),
    "captures_s": ("captures", 1.0, GREEN),
    "dw_gram_s": ("Gram matrix in dW", 1.0, RED),
}
AXES = {
    "n_params": "parameters (200 steps, rank 8)",
    "steps": "steps (0.4 M, rank 8)",
    "rank": "rank (0.4 M, 200 steps)",
}
WIDE, TALL, TOP, LEFT, GAP = 230.0, 240.0, 60.0, 80.0, 50.0
LOWEST, HIGHEST = 1e-4, 1e3  # seconds

Row = dict[str, float]


def measured(results: str) -> list[Row]:
    """Rows of the first scaling table, the one in which one size at a time is varied."""
    lines = results[results.index(HEAD) :].splitlines()
    names = [cell.strip() for cell in lines[0].strip("|").split("|")]
    rows = []
    for found in lines[2:]:
        if not found.startswith("|"):
            break
        rows.append(dict(zip(names, (float(c.replace(",", "")) for c in found.strip("|").split("|")), strict=True)))
    return rows


def varied(rows: Sequence[Row], axis: str) -> list[Row]:
    """The rows in which only this size differs from the common middle."""
    common = {name: max({r[name] for r in rows}, key=lambda v: sum(r[name] == v for r in rows)) for name in AXES}
    return sorted(
        # within a tenth: a number of parameters is a whole number of matrices
        (row for row in rows if all(abs(row[name] / common[name] - 1) < 0.1 for name in AXES if name != axis)),
        key=lambda row: row[axis],
    )


def panel(rows: Sequence[Row], axis: str, left: float) -> list[str]:
    """One panel: a line per stage with a dot at each measured size."""
    own = varied(rows, axis)
    low, high = math.log10(own[0][axis]), math.log10(own[-1][axis])

    def x(value: float) -> float:
        return left + WIDE * (0.05 + 0.9 * (math.log10(value) - low) / (high - low))

    parts = [line([(left, TOP), (left, TOP + TALL), (left + WIDE, TOP + TALL)], INK, width=1.5)]
    parts.append(text(left + WIDE / 2, TOP + TALL + 44, AXES[axis], color=SOFT, anchor="middle"))
    for value in (own[0][axis], own[-1][axis]):
        parts.append(text(x(value), TOP + TALL + 20, _short(value), color=SOFT, anchor="middle"))
    for name, (_, factor, color) in STAGES.items():
        points: list[Point] = [(x(row[axis]), y(factor * row[name])) for row in own]
        parts.append(line(points, color))
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{color}"/>' for px, py in points]
    return parts


def y(seconds: float) -> float:
    """Height of a duration on the common logarithmic axis."""
    share = (math.log10(seconds) - math.log10(LOWEST)) / (math.log10(HIGHEST) - math.log10(LOWEST))
    return TOP + TALL * (1 - share)


def picture(rows: Sequence[Row]) -> str:
    """All three panels beside each other, with one scale and one legend."""
    parts = []
    for place, axis in enumerate(AXES):
        left = LEFT + place * (WIDE + GAP)
        parts += panel(rows, axis, left)
        for power in range(-4, 4):
            parts.append(line([(left, y(10.0**power)), (left + WIDE, y(10.0**power))], SOFT, width=0.3))
    for power, words in ((-3, "1 ms"), (0, "1 s"), (2, "100 s")):
        parts.append(text(LEFT - 8, y(10.0**power) + 5, words, color=SOFT, anchor="end"))
    for place, (label, _, color) in enumerate(STAGES.values()):
        at = LEFT + 200 * place
        parts += [line([(at, 28), (at + 26, 28)], color, width=3), text(at + 34, 33, label, color=color)]
    width = int(LEFT + 3 * WIDE + 2 * GAP + 30)
    return card(width, 370, "Seconds of recording and analysing against parameters, steps and rank", parts)


def _short(value: float) -> str:
    return f"{value / 1e6:.2g} M" if value >= 1e5 else f"{value:.0f}"


def main() -> int:
    drawn = picture(measured((ROOT / "benchmarks" / "RESULTS.md").read_text()))
    if "--check" in sys.argv:
        return 0 if PICTURE.exists() and PICTURE.read_text() == drawn else 1
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
