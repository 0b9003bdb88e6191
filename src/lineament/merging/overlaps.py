"""How adapters lie to each other: cosines of dW and overlaps of their singular subspaces, each beside chance.

Of every module's dW = U S V^T the leading directions count that hold a share of |dW|^2. For two adapters with k1 and k2
of them, overlap = |U1^T U2|^2 / min(k1, k2): 1 where the smaller subspace lies inside the larger one, max(k1, k2) / d
for random subspaces of R^d. Left is what a module writes, right what it reads. All is of dW: no gauge matters.

Chance means random orientation, nothing less: two adapters whose A began at the same random numbers overlap on the
right without having learned anything alike, and activations of one base share directions whatever the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.merging.spectra import Decomposition, decompose, require_finite
from lineament.problems.factor_names import PREFIX
from lineament.problems.progress import Progress, silent
from lineament.problems.stored_adapters import Factors, StoredAdapter, live_order
from lineament.vectors.adapter_algebra import module_inner, require_one_shape

# A larger cosine of stored A is no chance, whose spread is one over the root of their entries, and no learning.
SAME_START = 0.1


@dataclass(frozen=True)
class Overlap:
    """Overlap of two subspaces beside that of random ones of the same dimensions.

    Attributes:
        value: |U1^T U2|^2 / min(k1, k2), in [0, 1].
        chance, spread: its mean and standard deviation for random subspaces.
    """

    value: float
    chance: float
    spread: float


@dataclass(frozen=True)
class ModuleOverlap:
    """Two adapters in one module.

    Attributes:
        module: its name in the base model.
        ranks: leading directions that hold the share, of each.
        inner: <dW1, dW2>. norms: |dW| of each. n_weights: entries of the weight.
        left, right: overlaps of the leading left and right singular directions.
    """

    module: str
    ranks: tuple[int, int]
    inner: float
    norms: tuple[float, float]
    n_weights: int
    left: Overlap
    right: Overlap

    @property
    def cosine(self) -> float:
        """Cosine of both dW."""
        return self.inner / (self.norms[0] * self.norms[1])

    @property
    def cosine_spread(self) -> float:
        """Standard deviation of the cosine of dW that are randomly oriented, whose mean is 0."""
        return 1 / math.sqrt(self.n_weights)


@dataclass(frozen=True)
class AdapterPair:
    """Two adapters.

    Attributes:
        modules: those that both of them change, in the order of the model.
        alone: modules that only the first and only the second changes.
        norms: |dW| of each over all of its modules.
        cosine_of_a: cosine of the factors A as they are stored, over modules in which both have one rank; None without
            any. Near 0 where they began at other random numbers; the one figure here that depends on the gauge.
    """

    modules: tuple[ModuleOverlap, ...]
    alone: tuple[int, int]
    norms: tuple[float, float]
    cosine_of_a: float | None = None

    def __repr__(self) -> str:
        """Say in one line what is compared."""
        cosine = "none" if self.cosine is None else f"{self.cosine:.3f}"
        return f"AdapterPair(cosine of dW {cosine}, {len(self.modules)} modules in both, {sum(self.alone)} in one)"

    @property
    def same_start(self) -> bool:
        """Whether A of both began at the same random numbers, so that right overlaps come from there too."""
        return self.cosine_of_a is not None and abs(self.cosine_of_a) > SAME_START

    @property
    def cosine(self) -> float | None:
        """Cosine of dW over all modules; None where one changes nothing."""
        length = self.norms[0] * self.norms[1]
        return sum(module.inner for module in self.modules) / length if length > 0 else None

    @property
    def cosine_spread(self) -> float | None:
        """Standard deviation of that cosine where every module's dW is randomly oriented."""
        length = self.norms[0] * self.norms[1]
        squares = ((one.norms[0] * one.norms[1]) ** 2 / one.n_weights for one in self.modules)
        return math.sqrt(sum(squares)) / length if length > 0 else None

    def mean(self, side: str) -> Overlap | None:
        """Return the mean overlap over modules of a side, `left` or `right`; None without any module."""
        return mean_overlap([getattr(module, side) for module in self.modules])


@dataclass(frozen=True)
class SharedPlane:
    """The directions of one side of a module that all adapters share.

    Attributes:
        n_shared: eigenvectors of the mean projector that are nearer to being in all (eigenvalue 1) than to chance; at
            most the smallest of the ranks.
        largest: the largest eigenvalue. chance: the upper edge of the eigenvalues for random subspaces.
        energies: share of each adapter's |dW|^2 inside the shared directions.
    """

    n_shared: int
    largest: float
    chance: float
    energies: tuple[float, ...]


@dataclass(frozen=True)
class SharedModule:
    """What all adapters share in one module that all of them change; `ranks` are leading directions of each."""

    module: str
    ranks: tuple[int, ...]
    left: SharedPlane
    right: SharedPlane


@dataclass(frozen=True)
class Comparison:
    """Adapters on one base, all against all.

    Attributes:
        share: of |dW|^2, that the compared directions hold in each module.
        pairs: (number of the first, of the second) -> what they have in common.
        shared: modules that all of them change, with the directions that all share.
    """

    share: float
    pairs: Mapping[tuple[int, int], AdapterPair]
    shared: tuple[SharedModule, ...]

    def __repr__(self) -> str:
        """Say in one line what was compared."""
        share = f"{100 * self.share:g} % of |dW|^2"
        return f"Comparison({len(self.pairs)} pairs by {share}, {len(self.shared)} modules in all)"


def compare_adapters(adapters: Sequence[StoredAdapter], share: float = 0.9, progress: Progress = silent) -> Comparison:
    """Compare two or more adapters of one base model, module by module.

    Args:
        share: of each module's |dW|^2 in the directions that are compared, in (0, 1].
        progress: called for each module.

    Raises:
        InputError: fewer than two adapters, a share out of its range, weights of different shapes, or two adapters
            whose modules have the same last names at other paths.
    """
    if len(adapters) < 2:
        raise InputError(f"adapters are compared with each other; got {len(adapters)}, and two are the fewest.")
    if not 0 < share <= 1:
        raise InputError(f"the share of |dW|^2 to compare must be above 0 and at most 1; got {share:g}.")
    for adapter in adapters:
        require_finite(adapter)
    found: dict[tuple[int, int], list[ModuleOverlap]] = {pair: [] for pair in combinations(range(len(adapters)), 2)}
    squares, shared = np.zeros(len(adapters)), list[SharedModule]()
    modules = live_order({module for adapter in adapters for module in adapter.factors})
    for number, module in enumerate(modules):
        progress("comparing modules", number, len(modules))
        own = {i: adapter.factors[module] for i, adapter in enumerate(adapters) if module in adapter.factors}
        parts = _decomposed(module, own)
        for i, one in parts.items():
            squares[i] += float(one.values.square().sum())
        for first, second in combinations(parts, 2):
            inner = module_inner(module, own[first], own[second])
            found[first, second].append(_module_overlap(module, inner, parts[first], parts[second], share))
        if len(parts) == len(adapters):
            shared.append(_shared(module, list(parts.values()), share))
    norms = np.sqrt(squares)
    pairs = {(i, j): _pair(adapters[i], adapters[j], mods, (norms[i], norms[j])) for (i, j), mods in found.items()}
    return Comparison(share, pairs, tuple(shared))


def mean_overlap(overlaps: Sequence[Overlap]) -> Overlap | None:
    """Return the mean of overlaps in several modules, with its chance and spread; None without any."""
    if not overlaps:
        return None
    value, chance = (float(np.mean([getattr(one, name) for one in overlaps])) for name in ("value", "chance"))
    return Overlap(value, chance, math.sqrt(sum(one.spread**2 for one in overlaps)) / len(overlaps))


def chance_overlap(first: int, second: int, dimension: int) -> tuple[float, float]:
    """Return mean and standard deviation of the overlap of random subspaces, in closed form.

    tr(P1 P2) of random projectors of ranks k1 and k2 in R^d has mean k1 k2 / d and variance
    2 k1 k2 (d - k1)(d - k2) / (d^2 (d - 1)(d + 2)).

    Args:
        first, second: their dimensions k1 and k2. dimension: d, of the space.
    """
    least = min(first, second)
    mean = first * second / dimension
    room = (dimension - first) * (dimension - second)
    variance = 2 * first * second * room / (dimension**2 * max(1, dimension - 1) * (dimension + 2))
    return mean / least, math.sqrt(variance) / least


def chance_edge(rank: int, dimension: int, count: int) -> float:
    """Return the upper edge of the eigenvalues of the mean of random projectors, a free convolution; at most 1.

    The sum of n free projections of trace a = rank / dimension ends at 1 + (n - 2) a + 2 sqrt((n - 1) a (1 - a)).

    Args:
        rank: of each. dimension: of the space. count: n >= 2.
    """
    a = min(1.0, rank / dimension)
    edge = (1 + (count - 2) * a + 2 * math.sqrt((count - 1) * a * (1 - a))) / count
    # where the ranks fill the space, directions that are in all exist by counting alone
    return 1.0 if count * (1 - a) <= 1 else min(1.0, edge)


def _decomposed(module: str, own: Mapping[int, Factors]) -> dict[int, Decomposition]:
    """Decompose the dW that are not zero; `InputError` unless all are of one shape."""
    first = next(iter(own.values()))
    for other in own.values():
        require_one_shape(module, first, other)
    parts = {i: decompose(factors) for i, factors in own.items()}
    return {i: one for i, one in parts.items() if float(one.values[0]) > 0}


def _module_overlap(
    module: str, inner: float, first: Decomposition, second: Decomposition, share: float
) -> ModuleOverlap:
    ranks = (first.rank(share), second.rank(share))
    left, right = (
        _overlap(one[:, : ranks[0]], other[:, : ranks[1]])
        for one, other in ((first.left, second.left), (first.right, second.right))
    )
    norms = (float(first.values.norm()), float(second.values.norm()))
    n_weights = len(first.left) * len(first.right)
    return ModuleOverlap(module.removeprefix(PREFIX), ranks, inner, norms, n_weights, left, right)


def _overlap(first: Float64[Tensor, "d k1"], second: Float64[Tensor, "d k2"]) -> Overlap:
    (dimension, k1), k2 = first.shape, second.shape[1]
    value = float((first.T @ second).square().sum()) / min(k1, k2)
    return Overlap(min(1.0, value), *chance_overlap(k1, k2, dimension))


def _pair(
    first: StoredAdapter, second: StoredAdapter, modules: list[ModuleOverlap], norms: tuple[float, float]
) -> AdapterPair:
    own, other = first.factors.keys(), second.factors.keys()
    alike = {name.rpartition(".")[2] for name in own} & {name.rpartition(".")[2] for name in other}
    if alike and not own & other:
        one, two = (next(iter(keys)).removeprefix(PREFIX) for keys in (own, other))
        raise InputError(
            f"two of the adapters call their modules by other paths: one changes {one} and others, the other {two} and "
            "others. Give adapters of one base model, whose modules have the same names."
        )
    alone = (len(own - other), len(other - own))
    return AdapterPair(tuple(modules), alone, (float(norms[0]), float(norms[1])), _cosine_of_a(first, second))


def _cosine_of_a(first: StoredAdapter, second: StoredAdapter) -> float | None:
    """Return the cosine of A as stored, over modules in which both have one rank; None without any that is not zero."""
    inner = squares = others = 0.0
    for module, (a, _, _) in first.factors.items():
        other = second.factors.get(module)
        if other is not None and other.a.shape == a.shape:
            own, theirs = a.double(), other.a.double()
            inner += float((own * theirs).sum())
            squares, others = squares + float(own.square().sum()), others + float(theirs.square().sum())
    length = math.sqrt(squares) * math.sqrt(others)
    return inner / length if length > 0 else None


def _shared(module: str, parts: Sequence[Decomposition], share: float) -> SharedModule:
    ranks = tuple(one.rank(share) for one in parts)
    left = _shared_plane([(one.left, one.values) for one in parts], ranks)
    right = _shared_plane([(one.right, one.values) for one in parts], ranks)
    return SharedModule(module.removeprefix(PREFIX), ranks, left, right)


def _shared_plane(sides: Sequence[tuple[Tensor, Tensor]], ranks: Sequence[int]) -> SharedPlane:
    """Find the directions in all subspaces, from the Gram matrix of all their columns."""
    columns = torch.cat([side[:, :rank] for (side, _), rank in zip(sides, ranks, strict=True)], dim=1)
    eigenvalues, vectors = torch.linalg.eigh(columns.T @ columns)
    mean = eigenvalues / len(sides)
    chance = chance_edge(max(ranks), len(columns), len(sides))
    kept = mean >= (1 + chance) / 2 - 1e-9
    kept[: -min(ranks)] = False  # no more than the smallest of them has
    plane = columns @ (vectors[:, kept] / eigenvalues[kept].sqrt())
    energies = tuple(
        float((plane.T @ (side * values)).square().sum() / values.square().sum()) for side, values in sides
    )
    return SharedPlane(int(kept.sum()), min(1.0, float(mean[-1])), chance, energies)
