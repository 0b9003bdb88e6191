"""Plain words for what a report shows: claims, bases, measurements and nulls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimWords:
    """A claim as a sentence, and what it means when it holds and when it does not."""

    title: str
    holds: str
    fails: str


CLAIMS = {
    "gradient_low_rank": ClaimWords(
        "The task's gradients lie in few directions",
        "Few directions hold 90 % of the gradients' energy, fewer than when the labels are shuffled.",
        "The gradients need many directions, or no fewer than gradients for shuffled labels do.",
    ),
    "static_plane_misses": ClaimWords(
        "A plane fixed beforehand misses most of the way back",
        "Even the best plane fixed beforehand holds less than half of the recovery.",
        "The best plane fixed beforehand holds half of the recovery or more.",
    ),
    "prefix_captures": ClaimWords(
        "The first updates hold more of the way back than any fixed plane",
        "The span of the first updates holds more of the recovery than fixed planes and than updates on noise.",
        "The span of the first updates is no better than the best fixed plane or than updates on noise.",
    ),
    "basis_drifts": ClaimWords(
        "The plane of gradients goes stale during the recovery",
        "Before the recovery ends, less than half of the plane is left: a projection must be refreshed.",
        "At least half of the plane is still there: it stays useful over the recovery.",
    ),
    "krylov_prefix": ClaimWords(
        "The first updates span the Krylov space of the damaged point",
        "Curvature and gradient at the damaged point foretell most of the first updates' span.",
        "Curvature and gradient at the damaged point do not foretell the first updates' span.",
    ),
    "best_of_n_theorem": ClaimWords(
        "The best of N random steps gains what the theorem predicts",
        "Measured and predicted gain agree within 10 % where curvature should cost 1 %.",
        "Measured and predicted gain differ by more than 10 %.",
    ),
    "dimension_free": ClaimWords(
        "The gain of random search does not depend on the number of parameters",
        "The ratio of measured to predicted gain does not change with the number of parameters.",
        "The ratio of measured to predicted gain changes with the number of parameters.",
    ),
    "signal_density": ClaimWords(
        "Signal density tells which subspace is worth searching",
        "Subspaces with the larger predicted gain are those with the larger measured gain.",
        "The predicted gain does not rank the subspaces as the measured gain does.",
    ),
    "step_matches_caa": ClaimWords(
        "One gradient step moves activations along the steering vector",
        "The step's activation shift points along the contrast vector, beyond every random or shuffled step.",
        "The step's activation shift is no closer to the contrast vector than random or shuffled steps, or not close.",
    ),
    "step_steers": ClaimWords(
        "The step's shift steers like the steering vector",
        "At equal disturbance of neutral text, the step's shift has at least half of the vector's effect.",
        "At equal disturbance of neutral text, the step's shift has less than half of the vector's effect.",
    ),
    "prefix_is_privileged": ClaimWords(
        "The first updates are better than updates at random times",
        "What comes first matters: as many updates from random times hold less of the recovery.",
        "As many updates from random times hold as much of the recovery: coming first is nothing special.",
    ),
    "static_gap_is_metric": ClaimWords(
        "Fixed planes miss the way back because they ignore the optimizer's metric",
        "Rescaling the fixed plane as the optimizer does closes more than a quarter of the gap.",
        "Rescaling the fixed plane as the optimizer does closes little of the gap.",
    ),
    "capture_predicts_recovery": ClaimWords(
        "A subspace that captures more also recovers more",
        "Ranking subspaces by capture ranks them by what training inside them recovers.",
        "Capture does not tell what training inside a subspace recovers.",
    ),
    "drift_follows_loss": ClaimWords(
        "The plane drifts fastest while the loss falls",
        "The plane turns faster before 90 % of the loss is recovered than after.",
        "The plane turns as fast after 90 % of the loss is recovered as before.",
    ),
}
STRADDLES = "Undecided: the interval {interval} reaches both sides of the rule ({rule})."
ONE_SEED = "One seed: no interval, so nothing can be decided. Run at least three seeds."
VERDICTS = {
    "supported": ("✓", "supported"),
    "not_supported": ("✗", "not supported"),
    "inconclusive": ("?", "inconclusive"),
}

GROUPS = {
    "own": "the updates themselves",
    "static": "fixed beforehand",
    "krylov": "Krylov",
    "control": "controls",
    "null": "nulls",
    "reference": "references",
}
POINTS = {
    "start": "start",
    "star": "trained",
    "broken": "damaged",
    "recovered": "recovered",
}
SPACES = {
    "lora_factors": "LoRA factors A, B",
    "lora_effective": "LoRA effective weights dW",
    "full": "all weights",
    "parameters": "measured parameters",
}
