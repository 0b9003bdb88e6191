"""Write the pictures of the concept pages as SVG: drawings of definitions, with made-up curves and no measured numbers.

    python docs/make_images.py            rewrite docs/images
    python docs/make_images.py --check    exit 1 if a picture is not up to date

Each picture brings its own light card, so it reads the same on light and dark pages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "images"
INK, SOFT, GRID, BLUE, RED, GREEN = "#1f2430", "#5a6272", "#c9ced8", "#1668b3", "#b8430f", "#0f7a52"
Point = tuple[float, float]


def text(x: float, y: float, words: str, *, color: str = INK, anchor: str = "start", size: int = 15) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" text-anchor="{anchor}">{words}</text>'


def line(points: Sequence[Point], color: str, *, width: float = 2, dash: str = "", arrow: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marker = f' marker-end="url(#{color[1:]})"' if arrow else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}{marker}/>'


def card(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A whole picture: a light card with a title for screen readers and arrow heads in each colour."""
    heads = "".join(
        f'<marker id="{c[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{c}"/></marker>'
        for c in (INK, SOFT, BLUE, RED, GREEN)
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{title}</title><defs>{heads}</defs>\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="#f7f8fa" stroke="{GRID}"/>\n{body}\n</svg>\n'
    )


def gradient_rank() -> str:
    """Bars of energy per direction and their running sum, which crosses 90 % at k90."""
    left, bottom, step, tall = 70, 290, 24, 210
    energy = 0.78 ** np.arange(22)
    share = energy / energy.sum()
    total = np.cumsum(share)
    k90 = int(np.searchsorted(total, 0.9) + 1)
    right = left + step * len(share)

    def y(value: float) -> float:
        return bottom - tall * value

    parts = [
        f'<rect x="{left + step * i + 4:.1f}" y="{y(p):.1f}" width="{step - 8}" height="{tall * p:.1f}" fill="{BLUE}"/>'
        for i, p in enumerate(share)
    ]
    curve = [(left, bottom), *[(left + step * (i + 0.5), y(t)) for i, t in enumerate(total)]]
    shuffled = [(left, bottom), *[(left + step * (i + 1), y((i + 1) / len(share))) for i in range(len(share))]]
    at = left + step * (k90 - 0.5)
    parts += [
        line([(left, y(0.9)), (right, y(0.9))], SOFT, width=1, dash="4 4"),
        line(shuffled, RED, dash="6 4"),
        line(curve, BLUE),
        line([(at, y(total[k90 - 1])), (at, bottom)], INK, width=1.5, dash="2 3"),
        line([(left, bottom - tall - 10), (left, bottom), (right, bottom)], INK, width=1.5),
        text(left - 10, y(0.9) + 5, "0.9", color=SOFT, anchor="end"),
        text(left - 10, y(1.0) - 4, "1", color=SOFT, anchor="end"),
        text(at, bottom + 20, "k90", anchor="middle"),
        text(right, bottom + 20, "n", anchor="middle"),
        text((left + right) / 2, bottom + 44, "direction, strongest first", color=SOFT, anchor="middle"),
        text(left + 18, 34, "bars: share p_i of the squared length; lines: their sum from the left", color=SOFT),
        text(left + 100, y(0.62), "true labels", color=BLUE),
        text(at + 40, y(0.3), "shuffled labels: every direction", color=RED),
    ]
    return card(650, 350, "Energy of gradients by direction; k90 is where the running sum reaches 0.9", parts)


def capture() -> str:
    """The displacement D, a plane, and the part of D inside it."""
    foot, tip, inside = (200.0, 268.0), (470.0, 80.0), (505.0, 235.0)
    plane = "70,290 350,170 640,210 400,320"
    parts = [
        f'<polygon points="{plane}" fill="{BLUE}" fill-opacity="0.13" stroke="{BLUE}"/>',
        line([tip, inside], SOFT, width=1.5, dash="4 4"),
        line([foot, inside], BLUE, width=3, arrow=True),
        line([foot, tip], INK, width=3, arrow=True),
        f'<circle cx="{foot[0]}" cy="{foot[1]}" r="5" fill="{INK}"/>',
        text(foot[0] - 22, foot[1] - 38, "theta_broken", anchor="end"),
        text(tip[0] + 10, tip[1] - 2, "theta_recovered"),
        text(300, 170, "D", size=18),
        text(370, 276, "U Uᵀ D", color=BLUE, size=16),
        text(500, 140, "what the", color=SOFT),
        text(500, 158, "subspace misses", color=SOFT),
        text(255, 300, "span(U), rank k", color=BLUE),
        text(30, 36, "capture(U, D) = |Uᵀ D|² / |D|²", size=17),
        text(30, 60, "blue length over black length, squared", color=SOFT),
    ]
    return card(690, 350, "Capture: squared length of the part of D inside a subspace over that of D", parts)


def drift() -> str:
    """Overlap against lag between ceiling and floor, and the half-life."""
    left, right, top, bottom = 80.0, 640.0, 60.0, 290.0
    ceiling, floor, life = 0.85, 0.08, 0.36

    def y(value: float) -> float:
        return bottom - (bottom - top) * value

    def x(lag: float) -> float:
        return left + (right - left) * lag

    lags = np.linspace(0, 1, 60)
    middle = (ceiling + floor) / 2
    curve = [(x(t), y(floor + (ceiling - floor) * 0.5 ** (t / life))) for t in lags]
    parts = [
        line([(left, y(ceiling)), (right, y(ceiling))], GREEN, dash="7 4"),
        line([(left, y(floor)), (right, y(floor))], SOFT, dash="7 4"),
        line([(left, y(middle)), (x(life), y(middle))], INK, width=1, dash="2 3"),
        line([(x(life), y(middle)), (x(life), bottom)], INK, width=1.5, dash="2 3"),
        line(curve, BLUE, width=3),
        line([(left, top - 15), (left, bottom), (right, bottom)], INK, width=1.5),
        text(right, y(ceiling) - 8, "ceiling: two halves of one time's gradients", color=GREEN, anchor="end"),
        text(right, y(floor) - 8, "floor: two random planes, k / n_params", color=SOFT, anchor="end"),
        text(x(0.54), y(0.43), "overlap of planes at t and t + lag", color=BLUE),
        text(x(life), bottom + 20, "half-life", anchor="middle"),
        text(right, bottom + 20, "lag, steps", color=SOFT, anchor="end"),
        text(left - 10, y(1) + 5, "1", color=SOFT, anchor="end"),
        text(left - 10, y(0) + 5, "0", color=SOFT, anchor="end"),
        text(left - 10, y(middle) + 5, "half", anchor="end"),
    ]
    return card(690, 330, "Drift: overlap of gradient planes falls with lag from the ceiling towards the floor", parts)


def random_search() -> str:
    """Gain over linear prediction against sigma: second-order curve, a measured curve, the band of 10 %."""
    left, right, top, bottom = 80.0, 640.0, 60.0, 290.0
    low, high = 1e-3, 1.0

    def x(cost: float) -> float:
        return left + (right - left) * float(np.log(cost / low) / np.log(high / low))

    def y(ratio: float) -> float:
        return bottom - (bottom - top) * ratio / 1.3

    costs = np.geomspace(low, high, 60)
    second = [(x(c), y(1 - c)) for c in costs]
    measured = [(x(c), y(1 - c + 0.45 * c**2)) for c in costs]
    leaves = 0.106  # where 1 - c + 0.45 c^2 = 0.9
    parts = [
        f'<rect x="{left}" y="{y(1.1):.1f}" width="{right - left}" height="{y(0.9) - y(1.1):.1f}" fill="{GREEN}" '
        'fill-opacity="0.13"/>',
        line([(left, y(1)), (right, y(1))], GREEN, width=1, dash="4 4"),
        line(second, RED, dash="7 4"),
        line(measured, BLUE, width=3),
        line([(x(leaves), y(0.9)), (x(leaves), bottom)], INK, width=1.5, dash="2 3"),
        line([(left, top - 15), (left, bottom), (right, bottom)], INK, width=1.5),
        text(left + 14, y(1.1) - 8, "within 10 % of sigma |g| m_N", color=GREEN),
        text(x(0.02), y(0.72), "measured gain / linear prediction", color=BLUE, anchor="middle"),
        text(x(0.55), y(0.12), "second order", color=RED, anchor="end"),
        text(x(leaves), bottom + 20, "departure", anchor="middle"),
        text(right, bottom + 20, "sigma, log scale", color=SOFT, anchor="end"),
        text(left - 10, y(1) + 5, "1", color=SOFT, anchor="end"),
        text(left - 10, y(0) + 5, "0", color=SOFT, anchor="end"),
        text(30, 34, "gain of the best of N random steps / what the gradient alone predicts", color=SOFT),
    ]
    return card(
        690, 330, "Gain of the best of N over its linear prediction: level at small steps, lower at large", parts
    )


PICTURES = {
    "gradient-rank.svg": gradient_rank,
    "capture.svg": capture,
    "drift.svg": drift,
    "random-search.svg": random_search,
}


def main(arguments: list[str]) -> int:
    """Rewrite the pictures, or with --check only say whether they are up to date."""
    old = {name: (FOLDER / name).read_text() if (FOLDER / name).exists() else "" for name in PICTURES}
    new = {name: make() for name, make in PICTURES.items()}
    if "--check" in arguments:
        return 0 if old == new else 1
    for name, content in new.items():
        (FOLDER / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
