"""Simulate how often the printed interval holds the parameter that it is printed beside, and how wide it is.

    python benchmarks/interval_coverage.py

Seeds are drawn from populations of fractions with a known logit mean, which is what point and interval of a fraction
are of. Homogeneous: logit-normal (where nothing can go wrong) and beta. Mixed: one seed in four of another kind, 1.5
logits away. Each figure is the share of 4 000 studies whose 95 % interval holds the logit mean; its standard error is
0.0035.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from lineament.claims.intervals import over_seeds

MEANS = (0.05, 0.25, 0.5, 0.75, 0.95)
SEEDS = (3, 5, 8)
STUDIES = 4_000
SPREAD = 0.5  # of a seed, in logits: the captures of the embedded model have 0.3 to 0.7
FAR = 1.5  # logits between the two kinds of a mixed population
CONCENTRATION = 16.0  # of the beta distribution; at a mean of 0.5 its logits spread by 0.5
Draw = Callable[[np.random.Generator, float, tuple[int, int]], np.ndarray]


def logit_normal(generator: np.random.Generator, mean: float, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(special.expit(special.logit(mean) + SPREAD * generator.standard_normal(shape)))


def beta(generator: np.random.Generator, mean: float, shape: tuple[int, int]) -> np.ndarray:
    return generator.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean), shape)


def mixed(generator: np.random.Generator, mean: float, shape: tuple[int, int]) -> np.ndarray:
    """A quarter of the seeds lies 1.5 logits away; the logit mean of the whole stays that of `mean`."""
    other = generator.random(shape) < 0.25
    centre = special.logit(mean) + np.where(other, 0.75 * FAR, -0.25 * FAR)
    return np.asarray(special.expit(centre + SPREAD * generator.standard_normal(shape)))


POPULATIONS: dict[str, Draw] = {
    "logit-normal": logit_normal,
    "beta": beta,
    "one in four of another kind": mixed,
}


def logit_mean(draw: Draw, mean: float) -> float:
    """The parameter, in closed form."""
    if draw is not beta:
        return float(special.logit(mean))
    return float(special.digamma(CONCENTRATION * mean) - special.digamma(CONCENTRATION * (1 - mean)))


def simulated(draw: Draw, mean: float, n_seeds: int) -> tuple[float, float]:
    """Coverage and median width of 95 % intervals."""
    generator = np.random.default_rng([n_seeds, round(1000 * mean)])
    truth = special.expit(logit_mean(draw, mean))
    intervals = [over_seeds(row, fraction=True) for row in draw(generator, mean, (STUDIES, n_seeds))]
    ends = np.array([(interval.low, interval.high) for interval in intervals])
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return float(inside.mean()), float(np.median(ends[:, 1] - ends[:, 0]))


def main() -> None:
    heads = [f"{kind}, {n} seeds" for n in SEEDS for kind in ("covered", "width")]
    print(f"| population | mean | {' | '.join(heads)} |")
    print("|" + "---|" * (len(heads) + 2))
    for name, draw in POPULATIONS.items():
        for mean in MEANS:
            cells = [
                f"{figure:.{digits}f}"
                for n in SEEDS
                for figure, digits in zip(simulated(draw, mean, n), (3, 2), strict=True)
            ]
            print(f"| {name} | {mean:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
