"""One gradient step towards a label against the CAA vector: the same direction in activation space? (protocol 5)

Quantity: per layer, the signed cosine of the mean activation shift by a gradient step towards the positive label (on
balanced prompts, true labels ignored) with the CAA vector, mean over held-out prompts; unit: cosine. Null: the same for
random weight directions of equal length in every tensor, for steps on shuffled labels and for steps towards the same
label on other tasks' prompts, each draw with its own best layer. Layers whose CAA vector does not agree with itself
over two halves of the data are no reference and are left out of the best layer. Then the reach of the linear picture in
the step size, and what the vectors do to answers: see `steering_effects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lineament.activations.capture import GroupSums, Place, all_layers, problem_reader, read_rows, summed
from lineament.measurements.measurement import Measurement, make_record
from lineament.measurements.steering_effects import EFFECT_DEFINITIONS, Steerer, effect_figures
from lineament.measurements.steering_nulls import OTHER_TASKS, NullSteps
from lineament.problems.problem import Problem
from lineament.records import Label, Quantity, Record
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.steering.contrast import Contrast, folds_of, make_contrast, positive_label
from lineament.steering.directions import LEAST_AGREEMENT, cosine, pca_of_differences, probe_direction
from lineament.steering.weight_step import StepKind, finite_shift, jacobian_shift, require_jacobian, step_direction
from lineament.study.passes import FORWARD_PASSES
from lineament.study.points import TRAINED
from lineament.study.study import OperatingStudy
from lineament.vectors.gradients import mean_gradient

NAME = "steering"
STEPS: tuple[StepKind, ...] = ("raw", "adam")
DEFINITIONS = {
    "task_accuracy": "accuracy of the model as it is on held-out examples of the task",
    "split_half_agreement": "cosine between the CAA vectors of two halves of the data",
    "caa_norm": "norm of the CAA vector: mean activation of positive minus negative examples",
    "activation_rms_norm": "root-mean-square norm of the activations that it was made from",
    "step_cosine": "cosine of -J g with the CAA vector (jacobian), or of h(theta - eta g) - h(theta) at the length "
    "where |eta J g| is the CAA vector's norm at the best layer (finite); g the gradient of the mean of "
    "-log p(positive label), raw or as Adam's first step; null: largest |cosine| of all null draws at this layer",
    "best_layer_cosine": "step_cosine at the reference layer where it is largest; null: largest best-layer |cosine| "
    "of all null draws",
    "null_best_layer_cosine": "largest |cosine| over reference layers of one null draw: a random weight direction with "
    "the step's norm in every tensor, a gradient step on shuffled labels, or one towards the same label on another "
    "task's prompts",
    "method_cosine": "cosine of the first principal axis of pairs' differences (pca) or of a logistic probe with CAA",
    "linearity_cosine": "cosine of the finite shift with the Jacobian's, size being |eta J g| over the CAA norm",
    "linearity_norm_ratio": "norm of the finite shift over |eta J g|",
    **EFFECT_DEFINITIONS,
}


@dataclass(frozen=True)
class Reference:
    """The CAA vector at every layer.

    Attributes:
        vector: (n_layers, width) float64. folds: (n_folds, n_layers, width), made without one fold each.
        agreement: (n_layers,) cosine of two halves. rms: (n_layers,) norm of activations.
        rows: (n_rows, n_layers, width) the activations. positive: (n_rows,) their classes.
    """

    vector: Tensor
    folds: Tensor
    agreement: Tensor
    rms: Tensor
    rows: Tensor
    positive: Tensor

    @property
    def usable(self) -> Tensor:
        """(n_layers,) whether the vector agrees with itself well enough to compare anything with it."""
        return self.agreement >= LEAST_AGREEMENT


@dataclass(frozen=True)
class Shift:
    """A mean activation shift: (n_layers, width), and without one fold of held-out prompts each."""

    mean: Tensor
    folds: Tensor


def measure(study: OperatingStudy) -> Record:
    """Measure cosines with their nulls, linearity, other methods' vectors, and effects on answers at equal KL."""
    with study.problem.parameters.temporarily(study.points[TRAINED]):
        figures, arrays = _figures(study)
    return make_record(study, NAME, figures, DEFINITIONS, arrays)


@dataclass(frozen=True)
class _Setup:
    """What is compared, where: the study, the wanted layers, held-out prompts, and the positive label if it is one."""

    study: OperatingStudy
    place: Place
    held_out: Contrast
    label: int | None

    def examples(self, n: int, stream: str, *, distinct: bool = False) -> Contrast:
        """Draw a contrast of n training examples from a named stream; of a small pool some come twice.

        The same example in both halves of the data would make any vector agree with itself.
        """
        streams = self.study.streams.child("steering", stream)
        batch = self.study.problem.sample(self.study.target, n, streams.generator(self.study.target))
        if distinct:
            batch = batch.rows(_first_of_each(batch.input_ids))
        return make_contrast(batch, self.held_out.kind, self.label)

    def shift_sums(self, direction: Tensor, n_folds: int = 1) -> GroupSums:
        """Return Jacobian shifts of the held-out rows by fold."""
        groups = folds_of(self.held_out.read_positive, n_folds)
        return jacobian_shift(self.study.problem, direction, self.held_out.read, self.place, groups, n_folds)

    def added_shift(self, direction: Tensor) -> Tensor:
        """Return the (n_layers, width) shift of the validation prompts, added to judge effects on held-out ones."""
        batch = self.study.problem.fixed(self.study.target, "validation")
        rows = make_contrast(batch, self.held_out.kind, self.label).read
        groups = torch.zeros(len(rows), dtype=torch.long)
        return jacobian_shift(self.study.problem, direction, rows, self.place, groups, 1).means()[0]


def _first_of_each(rows: Tensor) -> Tensor:
    """Return the indices of the first of equal rows, ascending."""
    seen: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(rows.tolist()):
        seen.setdefault(tuple(row), number)
    return torch.tensor(list(seen.values()))


def _setup(study: OperatingStudy) -> _Setup:
    problem, kind = study.problem, study.problem.contrast_kind(study.target)
    batch = problem.fixed(study.target, "held_out")
    # Chosen on training data: of many answers, the one that is frequent there.
    examples = problem.sample(study.target, len(batch), study.streams.child("steering").generator("label"))
    label = positive_label(examples) if kind == "statement" else None
    return _Setup(study, Place(all_layers(problem.model)), make_contrast(batch, kind, label), label)


def _figures(study: OperatingStudy) -> tuple[list[Quantity], dict[str, np.ndarray]]:
    s, problem, setup = study.settings.steering, study.problem, _setup(study)
    study.progress("reading activations", 0, 1)
    reference = _reference(setup)
    examples = setup.examples(s.step_examples, "step")
    gradient = mean_gradient(problem, examples.towards())
    directions = {step: step_direction(gradient, step) for step in STEPS}
    shifts = {step: _shift(setup, direction) for step, direction in directions.items()}
    null_steps = NullSteps(study, directions["raw"], examples.prompts, setup.label)
    nulls = _null_shifts(setup, null_steps)
    cosines = torch.stack([cosine(null, reference.vector).abs() for null in nulls.values()])
    figures = [
        Quantity("task_accuracy", problem.evaluate(problem.fixed(study.target, "held_out")).accuracy, "fraction"),
        *_reference_figures(reference),
        *_cosine_figures(reference, shifts, cosines),
        *_best_figures(reference, shifts, cosines),
        *_null_figures(reference, null_steps, list(nulls), cosines),
        *_method_figures(reference),
    ]
    best = _best_layer(reference, shifts["raw"])
    if best is not None:
        figures += _finite_figures(setup, reference, shifts["raw"], directions["raw"], best)
        study.progress("vectors to add", 0, 1)
        random = [setup.added_shift(null_steps.random(draw)) for draw in range(s.effect_directions)]
        vectors = {"caa": reference.vector, "step": setup.added_shift(directions["raw"])}
        figures += effect_figures(Steerer(study, setup.held_out, best, vectors, random))
    return figures, {"null_cosines": cosines.numpy(), "caa": reference.vector.float().numpy()}


def _reference(setup: _Setup) -> Reference:
    s = setup.study.settings.steering
    n_folds, contrast = s.folds, setup.examples(s.examples, "vector", distinct=True)
    rows = read_rows(problem_reader(setup.study.problem, setup.place), contrast.rows)
    groups = folds_of(contrast.positive, n_folds) + n_folds * contrast.positive
    found = summed([(torch.arange(len(rows)), rows)], groups, 2 * n_folds)

    def caa_of(chosen: Tensor) -> Tensor:
        sums, counts = found.sums.view(2, n_folds, *found.sums.shape[1:]), found.counts.view(2, n_folds)
        means = sums[:, chosen].sum(dim=1) / counts[:, chosen].sum(dim=1)[:, None, None]
        return means[1] - means[0]

    every = torch.arange(n_folds)
    halves = cosine(caa_of(every[::2]), caa_of(every[1::2]))
    left_out = torch.stack([caa_of(every[every != i]) for i in range(n_folds)])
    return Reference(caa_of(every), left_out, halves, found.rms_norms, rows, contrast.positive)


def _shift(setup: _Setup, direction: Tensor) -> Shift:
    n_folds = setup.study.settings.steering.folds
    found = setup.shift_sums(direction, n_folds)
    return Shift(_mean(found), torch.stack([_mean(found, without=i) for i in range(n_folds)]))


def _mean(found: GroupSums, without: int | None = None) -> Tensor:
    kept = torch.arange(len(found.counts)) != (-1 if without is None else without)
    return found.sums[kept].sum(dim=0) / found.counts[kept].sum()


def _null_shifts(setup: _Setup, null_steps: NullSteps) -> dict[tuple[str, int | str], Tensor]:
    """Return (kind of null, draw or task) -> (n_layers, width) Jacobian shift of a direction of norm 1."""
    found = {}
    for number, (kind, draw, direction) in enumerate(null_steps.all()):
        setup.study.progress("null directions", number, null_steps.n_draws)
        found[kind, draw] = setup.shift_sums(direction).means()[0]
    return found


def _jackknife(without: Tensor) -> Tensor:
    """Return the standard error from the values (n_folds, ...) with one fold left out each (Efron 1982)."""
    n = len(without)
    return ((n - 1) / n * (without - without.mean(dim=0)).square().sum(dim=0)).sqrt()


def _layered(values: Tensor) -> Iterator[tuple[int, float]]:
    return ((layer, float(value)) for layer, value in enumerate(values, start=1))


def _reference_figures(reference: Reference) -> Iterator[Quantity]:
    for quantity, values, unit in (
        ("split_half_agreement", reference.agreement, "cosine"),
        ("caa_norm", reference.vector.norm(dim=-1), "activation units"),
        ("activation_rms_norm", reference.rms, "activation units"),
    ):
        for layer, value in _layered(values):
            yield Quantity(quantity, value, unit, labels={"layer": layer})


def _cosine_figures(reference: Reference, shifts: dict[StepKind, Shift], nulls: Tensor) -> Iterator[Quantity]:
    for step, shift in shifts.items():
        errors = _jackknife(cosine(shift.folds, reference.folds))
        largest = nulls.max(dim=0).values
        for layer, value in _layered(cosine(shift.mean, reference.vector)):
            null = float(largest[layer - 1]) if step == "raw" else None
            usable = str(bool(reference.usable[layer - 1]))
            labels: dict[str, Label] = {"layer": layer, "step": step, "shift": "jacobian", "reference": usable}
            yield Quantity("step_cosine", value, "cosine", stderr=float(errors[layer - 1]), null=null, labels=labels)


def _best_layer(reference: Reference, shift: Shift) -> int | None:
    """Return the reference layer where the signed cosine is largest, counted from 1."""
    if not reference.usable.any():
        return None
    values = cosine(shift.mean, reference.vector).masked_fill(~reference.usable, -torch.inf)
    return int(values.argmax()) + 1


def _best_figures(reference: Reference, shifts: dict[StepKind, Shift], nulls: Tensor) -> Iterator[Quantity]:
    for step, shift in shifts.items():
        layer = _best_layer(reference, shift)
        if layer is None:
            reason = f"no layer's CAA vector agrees with itself to {LEAST_AGREEMENT}"
            yield Quantity("best_layer_cosine", None, "cosine", labels={"step": step}, reason=reason)
            continue
        draws = nulls[:, reference.usable].max(dim=1).values
        value = float(cosine(shift.mean, reference.vector)[layer - 1])
        error = float(_jackknife(cosine(shift.folds, reference.folds))[layer - 1])
        labels: dict[str, Label] = {"step": step, "layer": layer}
        if step == "raw":  # the null draws are raw steps: Adam's sign would be another kind of direction
            labels["n_below"] = int((draws < value).sum())
        yield Quantity(
            "best_layer_cosine",
            value,
            "cosine",
            stderr=error,
            null=float(draws.max()) if step == "raw" else None,
            labels=labels,
        )


def _null_figures(
    reference: Reference, null_steps: NullSteps, keys: list[tuple[str, int | str]], nulls: Tensor
) -> Iterator[Quantity]:
    if not reference.usable.any():
        return
    for (kind, draw), value in zip(keys, nulls[:, reference.usable].max(dim=1).values, strict=True):
        labels: dict[str, Label] = {"null": kind, "draw": draw}
        yield Quantity("null_best_layer_cosine", float(value), "cosine", labels=labels)
    made = {draw for kind, draw in keys if kind == OTHER_TASKS}
    missing = {task: "no gradient on its prompts" for task in null_steps.other_tasks if task not in made}
    if reason := null_steps.why_no_other_task:
        missing[""] = reason
    for task, reason in missing.items():
        labels = {"null": OTHER_TASKS, "draw": task}
        yield Quantity("null_best_layer_cosine", None, "cosine", labels=labels, reason=reason)


def _method_figures(reference: Reference) -> Iterator[Quantity]:
    for number in range(reference.rows.shape[1]):
        rows = reference.rows[:, number]
        pair = rows[reference.positive], rows[~reference.positive]
        for method, direction in (("pca", pca_of_differences(*pair)), ("probe", probe_direction(*pair))):
            labels: dict[str, Label] = {"method": method, "layer": number + 1}
            yield Quantity("method_cosine", float(cosine(direction, reference.vector[number])), "cosine", labels=labels)


def _finite_figures(
    setup: _Setup, reference: Reference, shift: Shift, direction: Tensor, best: int
) -> Iterator[Quantity]:
    """Compare finite shifts with the Jacobian's at several lengths, at length 1 with CAA at every layer."""
    study, sizes = setup.study, setup.study.settings.steering.sizes
    everything = torch.zeros(len(setup.held_out.read), dtype=torch.long)
    unit = float(reference.vector[best - 1].norm() / shift.mean[best - 1].norm())
    for number, size in enumerate(sizes):
        study.progress("finite steps", number, len(sizes))
        moved = finite_shift(study.problem, direction * size * unit, setup.held_out.read, setup.place, everything, 1)[0]
        yield from _linearity_figures(moved, shift.mean * size * unit, size)
        if size == 1:
            for layer, value in _layered(cosine(moved, reference.vector)):
                usable = str(bool(reference.usable[layer - 1]))
                labels: dict[str, Label] = {"layer": layer, "step": "raw", "shift": "finite", "reference": usable}
                yield Quantity("step_cosine", value, "cosine", labels=labels)


def _linearity_figures(moved: Tensor, predicted: Tensor, size: float) -> Iterator[Quantity]:
    ratio = moved.norm(dim=-1) / predicted.norm(dim=-1)
    for layer, value in _layered(cosine(moved, predicted)):
        labels: dict[str, Label] = {"layer": layer, "size": size}
        yield Quantity("linearity_cosine", value, "cosine", labels=labels)
        yield Quantity("linearity_norm_ratio", float(ratio[layer - 1]), "ratio", labels=labels)


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count activations, steps and their Jacobian products (about a pass each), and the effects of added vectors."""
    s, held_out = settings.steering, settings.task.evaluation_examples
    n_steps = s.shuffled_steps + n_tasks - 1
    shifts = (2 + s.random_directions + n_steps) * held_out + (1 + n_steps) * s.step_examples
    finite = 2 * len(s.sizes) * held_out
    doses = 3 * (len(s.doses) + 1) * (held_out + s.neutral_examples)
    calibrated = (len(s.depths) + 1) * (2 + s.effect_directions) * (12 * s.neutral_examples + held_out)
    return {"steering": shifts + FORWARD_PASSES * (s.examples + finite + doses + calibrated)}


def check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what the keys of `steering` demand of each other."""
    s, n = settings.steering, settings.task.evaluation_examples
    yield (
        s.examples >= 2 * s.folds,
        f"steering.examples is {s.examples}; it must be at least 2 * steering.folds = {2 * s.folds}, so that each "
        "fold holds both classes.",
    )
    yield (
        n >= 2 * s.folds,
        f"task.evaluation_examples is {n}; it must be at least 2 * steering.folds = {2 * s.folds} held-out prompts.",
    )
    yield (
        s.effect_directions <= s.random_directions,
        f"steering.effect_directions is {s.effect_directions}; it must be at most steering.random_directions, "
        f"{s.random_directions}.",
    )


def require_fit(problem: Problem) -> None:
    """Raise `InputError` for a model without blocks that vectors are added in, or without the step's Jacobian."""
    require_jacobian(problem, problem.fixed(problem.tasks[0], "validation"))


MEASUREMENT = Measurement(
    NAME, measure, cost, check, needs_recovery=False, settings_group="steering", require_fit=require_fit
)
