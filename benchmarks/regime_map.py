"""Draw the regime map from its two sweeps: prefix capture against the length of the recovery, measured and blind.

    lineament sweep benchmarks/regime_adamw.toml
    lineament sweep benchmarks/regime_sgd.toml
    python benchmarks/regime_map.py runs/regime_adamw runs/regime_sgd      rewrite docs/images/regime-map.svg

Upper row: capture of the whole way; lower row: of the way without the updates that span the basis. Also prints the
figures as a table, with intervals over seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lineament.claims.intervals import Interval, over_seeds
from lineament.claims.registry import CLAIMS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from make_images import BLUE, GREEN, GRID, INK, RED, SOFT, Point, card, line, text  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "regime-map.svg"
COLUMNS = {
    ("momentum", 0.0): "SGD",
    ("momentum", 0.9): "SGD, momentum 0.9",
    ("adamw", 0.0): "Adam, beta1 = 0",
    ("adamw", 0.9): "Adam, beta1 = 0.9",
}
ROWS = ("whole", "rest")
COLORS = (GREEN, BLUE, RED, INK)
PAPER_CAPTURE = CLAIMS["prefix_captures"].paper or 0.0
TABLED = (20, 59, 102, 232, 400)
WIDE, TALL, LEFT, TOP, GAP_X, GAP_Y = 230.0, 190.0, 70.0, 96.0, 34.0, 52.0
SHORTEST, LONGEST = 20.0, 400.0


def records(sweep: Path) -> pd.DataFrame:
    """One sweep's table, with the optimizer, which it does not vary."""
    optimizer = tomllib.loads((sweep / "sweep.toml").read_text())["recovery"]["optimizer"]
    return pd.read_parquet(sweep / "records.parquet").assign(**{"recovery.optimizer": optimizer})


def captures(sweeps: Sequence[Path]) -> pd.DataFrame:
    """All prefix captures by horizon, one row a seed."""
    rows = pd.concat([records(sweep) for sweep in sweeps])
    return rows[(rows.quantity == "horizon_capture") & (rows["label.basis"] == "prefix")]


def curve(rows: pd.DataFrame) -> dict[int, tuple[Interval, float]]:
    """Horizon -> capture over seeds, and what a blind run gives."""
    return {
        int(horizon): (over_seeds(own.value, fraction=True), float(own.blind.mean()))
        for horizon, own in rows.groupby("label.horizon")
    }


def panel(rows: pd.DataFrame, corner: Point, definition: str) -> list[str]:
    left, top = corner

    def at(horizon: float, share: float) -> Point:
        along = math.log(horizon / SHORTEST) / math.log(LONGEST / SHORTEST)
        return left + WIDE * along, top + TALL * (1 - share)

    parts = [line([at(SHORTEST, y), at(LONGEST, y)], GRID, width=1) for y in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts += [text(*at(x, -0.1), f"{x:g}", color=SOFT, anchor="middle", size=13) for x in (20, 50, 100, 200, 400)]
    if definition == "whole":
        parts.append(line([at(SHORTEST, PAPER_CAPTURE), at(LONGEST, PAPER_CAPTURE)], SOFT, width=1.5, dash="2 4"))
    sizes = sorted(rows["recovery.lr"].unique())
    for size, color in zip(sizes, COLORS[-len(sizes) :], strict=True):
        points = curve(rows[rows["recovery.lr"] == size])
        for horizon, (interval, _) in points.items():
            if interval.low is not None and interval.high is not None:
                parts.append(line([at(horizon, interval.low), at(horizon, interval.high)], color, width=1))
        parts.append(line([at(horizon, interval.mean) for horizon, (interval, _) in points.items()], color, width=2.5))
    blind = curve(rows[rows["recovery.lr"] == sizes[0]])
    parts.append(line([at(horizon, value) for horizon, (_, value) in blind.items()], SOFT, width=2.5, dash="7 5"))
    return parts


def key(sizes: Sequence[float], x: float, y: float) -> list[str]:
    """The step sizes of one column of panels, by colour."""
    parts = []
    for number, (size, color) in enumerate(zip(sizes, COLORS[-len(sizes) :], strict=True)):
        place = x + 58 * number
        parts += [
            line([(place, y - 4), (place + 14, y - 4)], color, width=2.5),
            text(place + 18, y, f"{size:g}", size=12),
        ]
    return parts


def picture(rows: pd.DataFrame) -> str:
    width, height = LEFT + 4 * WIDE + 3 * GAP_X + 20, TOP + 2 * TALL + GAP_Y + 92
    parts = [
        text(LEFT, 30, "What the first ten updates hold, by the length of the recovery in steps", size=17),
        text(
            LEFT, 52, "upper row: of the whole way; lower row: of the way after them; bars: 95 % over seeds", color=SOFT
        ),
    ]
    for column, ((optimizer, momentum), name) in enumerate(COLUMNS.items()):
        own = rows[(rows["recovery.optimizer"] == optimizer) & (rows["recovery.momentum"] == momentum)]
        left = LEFT + column * (WIDE + GAP_X)
        parts.append(text(left, TOP - 14, name))
        for row, definition in enumerate(ROWS):
            corner = (left, TOP + row * (TALL + GAP_Y))
            parts += panel(own[own["label.definition"] == definition], corner, definition)
        parts += key(sorted(own["recovery.lr"].unique()), left, TOP + 2 * TALL + GAP_Y + 44)
    for row in range(2):
        for share in (0.0, 0.5, 1.0):
            y = TOP + row * (TALL + GAP_Y) + TALL * (1 - share) + 5
            parts.append(text(LEFT - 8, y, f"{share:g}", color=SOFT, anchor="end", size=13))
    foot = height - 22
    parts += [line([(LEFT, foot - 5), (LEFT + 34, foot - 5)], SOFT, width=2.5, dash="7 5")]
    parts += [text(LEFT + 42, foot, "the same optimizer on gradients that know nothing", size=14)]
    parts += [line([(LEFT + 430, foot - 5), (LEFT + 464, foot - 5)], SOFT, width=1.5, dash="2 4")]
    parts += [
        text(LEFT + 472, foot, "0.77, the paper's figure for LoRA; numbers beside the colours: step size", size=14)
    ]
    return card(round(width), round(height), "Regime map of prefix capture", parts)


def table(rows: pd.DataFrame) -> str:
    heads = [f"T' = {horizon}" for horizon in TABLED]
    lines = [f"| optimizer | step size | of | {' | '.join(heads)} |", "|" + "---|" * (len(TABLED) + 3)]
    for (optimizer, momentum), name in COLUMNS.items():
        own = rows[(rows["recovery.optimizer"] == optimizer) & (rows["recovery.momentum"] == momentum)]
        for size in sorted(own["recovery.lr"].unique()):
            for definition in ROWS:
                found = curve(own[(own["recovery.lr"] == size) & (own["label.definition"] == definition)])
                near = [found[horizon] for horizon in TABLED]
                cells = [f"{i.mean:.2f} [{i.low:.2f}, {i.high:.2f}] (blind {blind:.2f})" for i, blind in near]
                lines.append(f"| {name} | {size:g} | {definition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path)
    rows = captures(parser.parse_args().sweeps)
    PICTURE.write_text(picture(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
