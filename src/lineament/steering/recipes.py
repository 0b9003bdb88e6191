"""Recipes for steering vectors: one direction per layer from two classes of text, a weight step or an adapter.

Every recipe makes its directions three times, from all of the data and from two parts of them. How well the parts
agree says how well the data decide the directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lineament.activations.capture import Place, group_sums, problem_reader, read_rows
from lineament.activations.packed import read_answers
from lineament.problems.problem import Problem
from lineament.steering.contrast import Contrast, folds_of
from lineament.steering.directions import Method, caa, cosine, pca_of_differences, probe_direction
from lineament.steering.weight_step import StepKind, jacobian_shift, step_direction
from lineament.vectors.gradients import mean_gradient

ByLayer = Mapping[int, Tensor]
DIRECTIONS: dict[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "caa": caa,
    "pca": pca_of_differences,
    "probe": probe_direction,
}


@dataclass(frozen=True)
class Directions:
    """What a recipe makes.

    Attributes:
        whole: layer -> (width,) direction from all of the data.
        halves: the same from each of two parts of the data.
    """

    whole: ByLayer
    halves: tuple[ByLayer, ByLayer]

    def agreement(self) -> dict[int, float]:
        """Return the cosine between the directions of both parts, by layer."""
        first, second = self.halves
        return {layer: float(cosine(first[layer], second[layer])) for layer in self.whole}


def contrast_directions(problem: Problem, contrast: Contrast, place: Place, method: Method) -> Directions:
    """Return directions between the activations of both classes: their mean difference, first axis or probe."""
    if method == "caa" and contrast.kind == "statement":
        return _running_caa(problem, contrast, place)
    positive, negative = _activations(problem, contrast, place)

    def by_layer(plus: Tensor, minus: Tensor) -> ByLayer:
        return {layer: DIRECTIONS[method](plus[:, i], minus[:, i]) for i, layer in enumerate(place.layers)}

    first, second = (by_layer(positive[half::2], negative[half::2]) for half in (0, 1))
    return Directions(by_layer(positive, negative), (first, second))


def step_directions(problem: Problem, contrast: Contrast, place: Place, kind: StepKind) -> tuple[Directions, Tensor]:
    """Return the shift of activations by one step in weight space, and the step's direction, (n_params,) float64.

    A quarter of the prompts makes each of two gradients, and the shift is read on the other half of the prompts, which
    made neither.
    """
    fold = torch.empty(len(contrast.prompts), dtype=torch.long)
    fold[torch.argsort(_prompt_classes(contrast).int(), stable=True)] = torch.arange(len(fold)) % 4
    towards = contrast.towards()
    parts = [mean_gradient(problem, towards.rows(_balanced(contrast, fold == part))) for part in (0, 1)]
    # Of pairs, both answers to every prompt of the other half.
    rows = contrast.read.rows((fold >= 2).repeat(len(contrast.read) // len(fold)).nonzero()[:, 0])
    together = torch.zeros(len(rows), dtype=torch.long)

    def shift(gradient: Tensor) -> ByLayer:
        direction = step_direction(gradient, kind)
        return _by_layer(place, jacobian_shift(problem, direction, rows, place, together, 1).means()[0])

    whole = parts[0] + parts[1]
    return Directions(shift(whole), (shift(parts[0]), shift(parts[1]))), step_direction(whole, kind)


def adapter_directions(problem: Problem, contrast: Contrast, place: Place) -> Directions:
    """Return the mean shift of activations that the model's own adapter makes on the prompts."""
    reader = problem_reader(problem, place)
    rows, groups = contrast.read, folds_of(contrast.read_positive, 2)
    after = group_sums(reader, rows, groups, 2)
    with problem.model.disable_adapter():  # type: ignore[operator]  # a PEFT model's own method
        before = group_sums(reader, rows, groups, 2)
    moved = after.sums - before.sums
    whole = moved.sum(dim=0) / after.counts.sum()
    parts = moved / after.counts[:, None, None]
    return Directions(_by_layer(place, whole), (_by_layer(place, parts[0]), _by_layer(place, parts[1])))


def _running_caa(problem: Problem, contrast: Contrast, place: Place) -> Directions:
    """Add up four groups, both classes of both halves, as they are read: memory does not grow with the data."""
    groups = folds_of(contrast.positive, 2) + 2 * contrast.positive
    groups_read = group_sums(problem_reader(problem, place), contrast.rows, groups, 4)
    means = groups_read.means()
    sums, counts = (
        groups_read.sums.view(2, 2, *groups_read.sums.shape[1:]).sum(dim=1),
        groups_read.counts.view(2, 2).sum(dim=1),
    )
    whole = sums[1] / counts[1] - sums[0] / counts[0]
    first, second = (_by_layer(place, means[2 + half] - means[half]) for half in (0, 1))
    return Directions(_by_layer(place, whole), (first, second))


def _activations(problem: Problem, contrast: Contrast, place: Place) -> tuple[Tensor, Tensor]:
    """Read (n, n_layers, width) of both classes; a prompt that two answers share is computed once where that works."""
    if contrast.kind == "answer" and not place.mean:
        n = len(contrast.prompts)
        last = contrast.rows.input_ids.gather(1, contrast.rows.positions)[:, 0]
        answers = torch.stack([last[:n], last[n:]], dim=1)
        read, _ = read_answers(problem.model, contrast.prompts, answers, place, problem.device)
        return read[:, 0], read[:, 1]
    rows = read_rows(problem_reader(problem, place), contrast.rows)
    return rows[contrast.positive], rows[~contrast.positive]


def _prompt_classes(contrast: Contrast) -> Tensor:
    """(n_prompts,) class of each prompt; of pairs, which all have both answers, whether the target is the lowest."""
    targets = contrast.prompts.targets[:, -1]
    return targets == (contrast.labels if contrast.kind == "statement" else targets.min())


def _balanced(contrast: Contrast, chosen: Tensor) -> Tensor:
    """Indices of the chosen prompts, as many of the positive label as of others; pairs are balanced as they are."""
    if contrast.kind == "answer":
        return chosen.nonzero()[:, 0]
    positive = _prompt_classes(contrast)
    plus, minus = ((chosen & of_class).nonzero()[:, 0] for of_class in (positive, ~positive))
    n = min(len(plus), len(minus))
    return torch.cat([plus[:n], minus[:n]])


def _by_layer(place: Place, stacked: Tensor) -> ByLayer:
    return dict(zip(place.layers, stacked, strict=True))
