"""How well curvature, and how well angles, foretell the interference of two adapters, on the embedded model.

    python benchmarks/composition.py [--seeds 5] [--base-steps 150] [--steps 60] [--lr 2e-3]

For every seed a base that has half learned six tasks, one LoRA adapter for each task (each from random factors of its
own), and all 15 pairs on held-out examples of both tasks. Spearman's correlations are over the pairs of one base, so
intervals are Student t over seeds. Every other number is of the same pairs. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from lineament import Composition, CompositionOptions, SideBranches, StoredAdapter, interference, read_adapter
from lineament.claims.intervals import over_seeds
from lineament.merging.figures import DataFigures, Of
from lineament.merging.foretold import Beside
from lineament.merging.overlaps import compare_adapters
from lineament.merging.side_branches import losses_at, scale_derivatives
from lineament.problems.adapters import save_adapter
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.presets import resolve
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.training import task_vector

SIZES = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0)
SHARE, SCALE = (0.0, 1.0), (0.0, math.inf)
GRID = (0.25, 0.5, 1.0, 1.5)
N_EXAMPLES = 128
BASE, MIDDLE, BOTH = "A'HB at the base", "A'HB half-way to the sum", "A'HB interpolated between the two"
OF: tuple[Of, ...] = ("interference", "cost")
WORDS = {"predicted": "foretold by slope and curvature", "middle": "foretold half-way"}
# Scales whose interference is ranked, and the curvature that is compared with angles there.
SHOWN = (0.125, 0.25, 0.5, 1.0)
CURVATURES = (BASE, BASE, BOTH, MIDDLE)


@dataclass(frozen=True)
class Pair:
    """Two adapters on the data of both.

    Attributes:
        angles: name -> value, from the adapters alone.
        interference: scale c -> I(c, c) on each data set. slopes: the same from gradients at A and B alone.
    """

    composition: Composition
    angles: dict[str, float]
    interference: dict[float, tuple[float, float]]
    slopes: tuple[float, float]

    @cached_property
    def nulls(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Figure -> on each data set: share of smaller draws, size of the median one, and relative errors of both."""
        both = [null_figures(DataFigures(self.composition, data)) for data in (0, 1)]
        return {name: (both[0][name], both[1][name]) for name in both[0]}

    @property
    def curvature(self) -> tuple[float, float]:
        """A'HB at the base on each data set."""
        first, second = (float(m.curvatures[:, 1].mean()) for m in self.composition.meetings)
        return first, second

    @property
    def middle(self) -> tuple[float, float]:
        """A'HB half-way to the sum on each data set."""
        first, second = (float(m.middle.mean()) for m in self.composition.meetings)
        return first, second

    def between(self, c: float) -> tuple[float, float]:
        """A'HB half-way to c A + c B, on the line between the other two, on each data set."""
        first, second = (a + c * (b - a) for a, b in zip(self.curvature, self.middle, strict=True))
        return first, second


def null_figures(figures: DataFigures) -> dict[str, tuple[float, ...]]:
    """Figure -> share of the null's draws that are smaller, the median one over it, and relative errors of both."""
    found: dict[str, tuple[float, ...]] = {}
    for of in OF:
        measured = figures.measured(of)
        found[f"{of} measured"] = (*sizes(measured), math.nan, math.nan)
        for predicted, kind, beside in figures.foretold.predictions():
            if predicted == of:
                off = beside - measured
                own, draws = (abs(x.mean(dim=-1)) for x in (off.own, off.draws))
                over = (own / abs(measured.own.mean()), (draws / abs(measured.draws.mean(dim=-1))).median())
                found[f"{of} {WORDS[kind]}"] = (*sizes(beside), *map(float, over))
    return found


def sizes(beside: Beside) -> tuple[float, float]:
    """Share of the null's draws that are smaller than a figure, and the median one over the figure."""
    own, draws = abs(beside.own.mean()), abs(beside.draws.mean(dim=-1))
    return float((draws < own).double().mean()), float(draws.median() / own)


def settings_of(arguments: argparse.Namespace) -> Settings:
    keys = {
        "training.steps": arguments.base_steps,
        "measurement.task_vector_steps": arguments.steps,
        "operating.lr": arguments.lr,
        "recovery.batch": 64,
        "task.evaluation_examples": N_EXAMPLES,
        "threads": 1,
        "recovery.space": "lora",
    }
    return resolve("synthetic", "quick", [("the benchmark", keys)])


def trained_adapters(settings: Settings, seed: int) -> dict[str, StoredAdapter]:
    """One adapter for each task, from the base and random factors A of its own."""
    problem, made = SyntheticProblem(settings, seed), {}
    space, streams = problem.parameters, Streams(seed).child("composition benchmark")
    before = [e.loss for e in problem.evaluate_all("held_out").values()]
    for task in problem.tasks:
        theta = space.read(torch.float64)
        generator = streams.generator("factors", task)
        for pair in factor_pairs(space):  # as PEFT draws A
            bound = 1 / math.sqrt(pair.a_shape[1])
            theta[pair.a] = torch.from_numpy(generator.uniform(-bound, bound, pair.a.stop - pair.a.start))
        with space.temporarily(theta), tempfile.TemporaryDirectory() as folder:
            end = theta + task_vector(problem, task, settings, streams.child("training", task))
            save_adapter(space, end, Path(folder) / "adapter")
            made[task] = read_adapter(Path(folder) / "adapter")
            space.write(end)
            after = problem.evaluate(problem.fixed(task, "held_out"))
        own = before[problem.tasks.index(task)]
        print(f"seed {seed}, {task}: loss {own:.3f} to {after.loss:.3f}", file=sys.stderr)
    return made


def measured_pairs(settings: Settings, seed: int) -> list[Pair]:
    adapters = trained_adapters(settings, seed)
    base = SyntheticProblem(updated(settings, {"recovery.space": "full"}, "the benchmark"), seed)
    return [measured_pair(base, names, adapters, seed) for names in itertools.combinations(adapters, 2)]


def measured_pair(
    base: SyntheticProblem, names: tuple[str, str], adapters: dict[str, StoredAdapter], seed: int
) -> Pair:
    pair = adapters[names[0]], adapters[names[1]]
    data = base.fixed(names[0], "held_out"), base.fixed(names[1], "held_out")
    composition = interference(base, pair, data, CompositionOptions(GRID, draws=4, seed=seed))
    branches = SideBranches(base.model, pair)
    found: dict[float, tuple[float, float]] = {}
    for c in SIZES:
        points = torch.tensor([[c, c], [c, 0], [0, c], [0, 0]], dtype=torch.float64)
        both = []
        for batch in data:
            together, first, second, start = (float(x.mean()) for x in losses_at(base, branches, batch, points))
            both.append(together - first - second + start)
        found[c] = both[0], both[1]
    slopes = []
    for batch in data:
        here, at_a, at_b = (
            scale_derivatives(base, branches, batch, (0,), point) for point in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        )
        of_b, of_a = at_a.slopes[:, 1] - here.slopes[:, 1], at_b.slopes[:, 0] - here.slopes[:, 0]
        slopes.append(float((of_a + of_b).mean()) / 2)
    return Pair(composition, angles(pair), found, (slopes[0], slopes[1]))


def angles(pair: tuple[StoredAdapter, StoredAdapter]) -> dict[str, float]:
    found = compare_adapters(pair).pairs[0, 1]
    left, right, cosine = found.mean("left"), found.mean("right"), found.cosine
    assert left is not None
    assert right is not None
    assert cosine is not None
    return {
        "cosine of dW": cosine,
        "|cosine| of dW": abs(cosine),
        "overlap of left singular subspaces": left.value,
        "overlap of right singular subspaces": right.value,
        "|dW_A| |dW_B|": found.norms[0] * found.norms[1],
    }


def total(pair: Pair, c: float) -> float:
    return sum(pair.interference[c])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    return float(stats.spearmanr(x, y).statistic)


def text(values: Sequence[float], bounds: tuple[float, float] = (-1.0, 1.0)) -> str:
    """Mean over seeds with its interval, which is cut to the bounds of the quantity."""
    found, (least, most) = over_seeds(values), bounds
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} [{max(least, found.low):.2f}, {min(most, found.high):.2f}]"


def print_agreement(seeds: Sequence[Sequence[Pair]]) -> None:
    """Predicted against measured over pairs of scales and over pairs of adapters."""
    print(
        "\n| curvature | scale c of both | Spearman of c^2 A'HB with I(c, c), 30 of a seed | within 10 % | same sign |"
    )
    print("|---|---|---|---|---|")
    for name, c in itertools.product((BASE, BOTH), SIZES):
        rank, near, sign = [], [], []
        for pairs in seeds:
            bent = [q for p in pairs for q in (p.curvature if name == BASE else p.between(c))]
            predicted = c * c * np.array(bent)
            seen = np.array([i for p in pairs for i in p.interference[c]])
            rank.append(spearman(list(predicted), list(seen)))
            near.append(float(np.mean(np.abs(seen - predicted) <= 0.1 * np.abs(predicted))))
            sign.append(float(np.mean(np.sign(seen) == np.sign(predicted))))
        print(f"| {name} | {c:g} | {text(rank)} | {text(near, SHARE)} | {text(sign, SHARE)} |")
    reach, grid, keeps = [], [], []
    for pairs in seeds:
        figures = [DataFigures(p.composition, data) for p in pairs for data in (0, 1)]
        reach.append(float(np.median([f.holds_up_to("both")[0].value or 0.0 for f in figures])))
        grid.append(float(np.median([f.agreement("both").value or 0.0 for f in figures])))
        keeps.append(float(np.median([v for f in figures if (v := f.keeps_up_to()[0].value) is not None])))
    print("\n| median over pairs and data sets | value |\n|---|---|")
    print(f"| correlation over the grid of scales (0.25 to 1.5) | {text(grid)} |")
    print(f"| scale up to which the prediction holds to 10 % | {text(reach, SCALE)} |")
    print(f"| scale up to which the sum keeps 90 % of a gain | {text(keeps, SCALE)} |")


def print_ranking(seeds: Sequence[Sequence[Pair]]) -> None:
    """What ranks the pairs by their interference, summed over both data sets."""
    first = seeds[0][0]
    rows: dict[str, Callable[[Pair, float], float]] = {
        BASE: lambda p, c: sum(p.curvature),
        MIDDLE: lambda p, c: sum(p.middle),
        BOTH: lambda p, c: sum(p.between(c)),
        "change of slopes at A alone and at B alone": lambda p, c: sum(p.slopes),
        **{name: (lambda p, c, name=name: p.angles[name]) for name in first.angles},  # type: ignore[misc]
    }
    print(f"\n| ranked by | {' | '.join(f'I({c:g}, {c:g})' for c in SHOWN)} | size of I(1, 1) |")
    print(f"|---|{'---|' * (len(SHOWN) + 1)}")
    ranks: dict[str, list[list[float]]] = {}
    for name, of in rows.items():
        cells = [[spearman([of(p, c) for p in own], [total(p, c) for p in own]) for own in seeds] for c in SHOWN]
        sizes = [spearman([abs(of(p, 1.0)) for p in own], [abs(total(p, 1.0)) for p in own]) for own in seeds]
        ranks[name] = cells
        print(f"| {name} | {' | '.join(map(text, cells))} | {text(sizes)} |")
    for place, (c, curvature) in enumerate(zip(SHOWN, CURVATURES, strict=True)):
        own = {name: math.copysign(1, np.mean(r[place])) * np.array(r[place]) for name, r in ranks.items()}
        best = max(first.angles, key=lambda name: float(np.mean(own[name])))
        gap = text(list(own[curvature] - own[best]), (-2.0, 2.0))
        print(f"\nI({c:g}, {c:g}): {curvature} less the best angle ({best}, its sign chosen by the outcome): {gap}.")


def print_costs(seeds: Sequence[Sequence[Pair]]) -> None:
    """What ranks the 30 combinations of a base by what the other adapter costs the own one."""
    rows: dict[str, Callable[[Pair, int], float]] = {
        "slope and curvature at the own adapter": lambda p, own: float(
            DataFigures(p.composition, own).foretold.cost().value or 0.0
        ),
        "slope at the own adapter": lambda p, own: float(p.composition.meetings[own].onward[:, 0].mean()),
        "I(1, 1) measured": lambda p, own: p.interference[1.0][own],
        **{name: (lambda p, own, name=name: p.angles[name]) for name in seeds[0][0].angles},  # type: ignore[misc]
    }
    print("\n| ranked by | L(A + B) - L(own adapter) on its data, Spearman over 30 of a seed |\n|---|---|")
    for name, of in rows.items():
        ranks = []
        for pairs in seeds:
            places = list(itertools.product(pairs, (0, 1)))
            costs = [float(DataFigures(p.composition, own).cost().value or 0.0) for p, own in places]
            ranks.append(spearman([of(p, own) for p, own in places], costs))
        print(f"| {name} | {text(ranks)} |")


def print_null(seeds: Sequence[Sequence[Pair]]) -> None:
    """How often, and by how much, what is foretold and measured is larger than with random singular vectors."""
    print("\n| figure at (1, 1) | draws that are smaller | median draw over it | off by, over measured | draws' own |")
    print("|---|---|---|---|---|")
    for row in seeds[0][0].nulls:
        cells = []
        for place, bounds in enumerate((SHARE, SCALE, SCALE, SCALE)):
            found = [[p.nulls[row][own][place] for p in pairs for own in (0, 1)] for pairs in seeds]
            medians = [float(np.mean(one) if place == 0 else np.median(one)) for one in found]
            cells.append("-" if math.isnan(medians[0]) else text(medians, bounds))
        print(f"| {row} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, default in (("--seeds", 5), ("--base-steps", 150), ("--steps", 60), ("--lr", 2e-3)):
        parser.add_argument(flag, type=type(default), default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = settings_of(arguments)
    seeds = [measured_pairs(settings, seed) for seed in range(arguments.seeds)]
    print_agreement(seeds)
    print_ranking(seeds)
    print_costs(seeds)
    print()
    print_null(seeds)


if __name__ == "__main__":
    main()
