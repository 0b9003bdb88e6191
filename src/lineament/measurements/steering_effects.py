"""What vectors do to answers when they are added: dose-response, equal KL, harm to other tasks (protocol 5).

Quantity: change of the mean logit difference (positive answer minus the best other one) and of accuracy on held-out
prompts; unit: nats, fraction. Price: KL(unsteered || steered) on neutral text, nats per token over all positions. Null:
shifts of random weight directions with the step's norm in every tensor, added in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lineament.problems.problem import Evaluation
from lineament.records import MIN_STDERRS, Label, Quantity, is_told
from lineament.steering.contrast import Contrast
from lineament.steering.effects import Answers, Calibration, NeutralText, answers, calibrate
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector
from lineament.study.study import OperatingStudy

# Steering is tried up to this multiple of the activations' CAA norm; beyond, "unreachable" is said.
LARGEST_DOSE = 32.0
RANDOM = "random"
EFFECT_DEFINITIONS = {
    "dose_logit_difference": "change of the mean logit difference on held-out prompts when dose times the CAA norm is "
    "added along the vector at the layer, at every token",
    "dose_accuracy": "change of accuracy on held-out prompts at that dose",
    "dose_kl": "KL(unsteered || steered) on neutral text at that dose, mean over all positions",
    "calibrated_dose": "dose at which that KL is the budget; undefined where it is not reached",
    "calibrated_kl": "KL that was reached at the calibrated dose",
    "calibrated_effect": "change of the mean logit difference at the calibrated dose",
    "effect_ratio": "calibrated effect of the step's shift over that of CAA at equal KL; null: mean size of the same "
    "for shifts of random weight directions",
    "collateral_accuracy": "change of another task's accuracy at the calibrated dose",
    "collateral_loss": "change of another task's loss at the calibrated dose",
}


class Steerer:
    """The vectors to add and what their effect is judged on; made while the model is unsteered.

    Args:
        best: layer of the best cosine, from 1.
        vectors: `caa` and `step` -> (n_layers, width).
        random: null shifts, each (n_layers, width).
    """

    def __init__(
        self, study: OperatingStudy, held_out: Contrast, best: int, vectors: Mapping[str, Tensor], random: list[Tensor]
    ) -> None:
        self.study, self.held_out, self.best, self.vectors, self.random = study, held_out, best, vectors, random
        problem, n = study.problem, study.settings.steering.neutral_examples
        self.neutral = NeutralText(problem, problem.neutral(study.target, n))
        self.base = self._answers()

    def vector(self, name: str, layer: int) -> SteeringVector:
        """Return the named vector at one layer, with the CAA vector's norm: a coefficient is then a dose."""
        found = self.random[int(name.removeprefix(RANDOM))] if name.startswith(RANDOM) else self.vectors[name]
        direction = found[layer - 1] / found[layer - 1].norm() * self.vectors["caa"][layer - 1].norm()
        return SteeringVector({layer: direction.float()})

    def answers(self, name: str, layer: int, dose: float) -> Answers:
        """Return answers under steering."""
        with steered(self.study.problem.model, self.vector(name, layer), dose):
            return self._answers()

    def kl(self, name: str, layer: int, dose: float) -> float:
        """Return the KL on neutral text."""
        with steered(self.study.problem.model, self.vector(name, layer), dose):
            return self.neutral.kl()

    def calibrated(self, name: str, layer: int) -> Calibration:
        """Return the dose at the KL budget."""
        kl = self.study.settings.steering.kl
        return calibrate(self.study.problem, self.vector(name, layer), self.neutral, kl, LARGEST_DOSE)

    def _answers(self) -> Answers:
        return answers(self.study.problem, self.held_out.prompts, self.held_out.labels, self.held_out.others)


def effect_figures(steerer: Steerer) -> Iterator[Quantity]:
    """Measure dose-response at the best layer and, at equal KL, effects at several layers and on other tasks."""
    yield from _dose_figures(steerer)
    layers = _layers(steerer)
    for number, layer in enumerate(layers):
        steerer.study.progress("steering at equal KL", number, len(layers))
        yield from _calibrated_figures(steerer, layer)


def _layers(steerer: Steerer) -> list[int]:
    n_layers = len(steerer.vectors["caa"])
    depths = steerer.study.settings.steering.depths
    return sorted({steerer.best, *(min(n_layers, max(1, round(depth * n_layers))) for depth in depths)})


def _dose_figures(steerer: Steerer) -> Iterator[Quantity]:
    doses, layer = steerer.study.settings.steering.doses, steerer.best
    names = [*steerer.vectors, f"{RANDOM}0"] if steerer.random else list(steerer.vectors)
    for number, name in enumerate(names):
        steerer.study.progress("dose-response", number, len(names))
        for dose in sorted({0.0, *doses}):
            found = steerer.answers(name, layer, dose)
            labels: dict[str, Label] = {**_named(name), "layer": layer, "dose": dose}
            yield _mean_change("dose_logit_difference", found.differences - steerer.base.differences, "nats", labels)
            yield _mean_change("dose_accuracy", found.correct - steerer.base.correct, "fraction", labels)
            yield Quantity("dose_kl", steerer.kl(name, layer, dose), "nats per token", labels=labels)


def _calibrated_figures(steerer: Steerer, layer: int) -> Iterator[Quantity]:
    kl = steerer.study.settings.steering.kl
    changes: dict[str, Tensor] = {}
    for name in (*steerer.vectors, *(f"{RANDOM}{i}" for i in range(len(steerer.random)))):
        found = steerer.calibrated(name, layer)
        labels: dict[str, Label] = {**_named(name), "layer": layer, "kl": kl}
        if found.coefficient is None:
            reason = f"unreachable: {found.kl:.2g} nats per token at {found.largest:g} times the CAA norm"
            yield Quantity("calibrated_dose", None, "multiples of the CAA norm", labels=labels, reason=reason)
            continue
        yield Quantity("calibrated_dose", found.coefficient, "multiples of the CAA norm", labels=labels)
        yield Quantity("calibrated_kl", found.kl, "nats per token", labels=labels)
        changes[name] = steerer.answers(name, layer, found.coefficient).differences - steerer.base.differences
        yield _mean_change("calibrated_effect", changes[name], "nats", labels)
        if name in steerer.vectors:
            yield from _collateral_figures(steerer, name, layer, found.coefficient)
    yield _ratio_figure(steerer, layer, changes)


def _ratio_figure(steerer: Steerer, layer: int, changes: Mapping[str, Tensor]) -> Quantity:
    labels: dict[str, Label] = {
        "layer": layer,
        "kl": steerer.study.settings.steering.kl,
        "best": str(layer == steerer.best),
    }
    if "caa" not in changes or "step" not in changes:
        return Quantity("effect_ratio", None, "ratio", labels=labels, reason="a vector does not reach this KL")
    caa, step = changes["caa"], changes["step"]
    # A ratio to an effect that is not there, or that goes the wrong way, would say anything.
    if not is_told(float(caa.mean()), float(caa.std() / len(caa) ** 0.5)):
        reason = f"CAA does not steer towards its label by {MIN_STDERRS:g} standard errors: nothing to share"
        return Quantity("effect_ratio", None, "ratio", labels=labels, reason=reason)
    random = [abs(float(found.mean() / caa.mean())) for name, found in changes.items() if name.startswith(RANDOM)]
    null = sum(random) / len(random) if random else None
    return Quantity(
        "effect_ratio",
        float(step.mean() / caa.mean()),
        "ratio",
        stderr=ratio_error(step, caa),
        null=null,
        labels=labels,
    )


def _named(name: str) -> dict[str, Label]:
    """Return the labels of a vector; random ones carry the number of their draw."""
    if name.startswith(RANDOM):
        return {"vector": RANDOM, "draw": int(name.removeprefix(RANDOM))}
    return {"vector": name}


def ratio_error(above: Tensor, below: Tensor) -> float:
    """Return the standard error of the ratio of two means over the same prompts, by the jackknife."""
    n = len(above)
    without = (above.sum() - above) / (below.sum() - below)
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def _mean_change(quantity: str, change: Tensor, unit: str, labels: Mapping[str, Label]) -> Quantity:
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else None
    return Quantity(quantity, float(change.mean()), unit, stderr=error, labels=dict(labels))


def _collateral_figures(steerer: Steerer, name: str, layer: int, dose: float) -> Iterator[Quantity]:
    problem, kl = steerer.study.problem, steerer.study.settings.steering.kl
    for task in problem.tasks:
        if task == steerer.study.target:
            continue
        before = problem.evaluate(problem.fixed(task, "evaluation"))
        with steered(problem.model, steerer.vector(name, layer), dose):
            after: Evaluation = problem.evaluate(problem.fixed(task, "evaluation"))
        labels: dict[str, Label] = {"vector": name, "task": task, "layer": layer, "kl": kl}
        yield Quantity("collateral_accuracy", after.accuracy - before.accuracy, "fraction", labels=labels)
        yield Quantity("collateral_loss", after.loss - before.loss, "nats per target token", labels=labels)
