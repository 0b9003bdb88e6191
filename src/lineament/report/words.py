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

BASES = {
    "prefix": "first k updates",
    "trajectory_top": "top k directions of all updates",
    "static_start": "task plane near the start",
    "static_star": "task plane, trained point",
    "static_broken": "task plane, damaged point",
    "static_all_tasks": "plane of all tasks, damaged point",
    "static_hessian_top": "sharpest Hessian directions",
    "task_vectors": "task vectors",
    "krylov": "Krylov space",
    "krylov_preconditioned": "Krylov space, optimizer's metric",
    "control_random_times": "k updates at random times",
    "control_preconditioned": "task plane, optimizer's metric",
    "control_frozen_run": "k updates at the frozen damaged point",
    "control_other_data": "first k updates, other data order",
    "null_noise_prefix": "first k updates, shuffled labels",
    "null_other_task": "another task's plane",
    "random": "random directions",
}
VECTORS = {
    "caa": "CAA vector",
    "step": "gradient step's shift",
    "random": "random weight direction's shift",
}
WEIGHT_STEPS = {"raw": "gradient step", "adam": "Adam's first step"}
NULL_DRAWS = {"random_weights": "random weight directions", "shuffled_labels": "steps on shuffled labels"}
SPACES_SEARCHED = {"full": "whole space"}
SEARCH_POINTS = {"broken": "damaged", "half recovered": "half-way through the recovery", "star": "trained"}
STATIC = (
    "static_start",
    "static_star",
    "static_broken",
    "static_all_tasks",
    "static_hessian_top",
    "task_vectors",
)
GROUPS = {
    "own": "the recovery itself",
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
# What a target is called, what a run did to it, and what its page is about: recovery, or the operating point alone.
RECOVERED = (
    "Damaged task",
    "damaged and recovered on",
    "A model that knows several tasks was damaged on one of them, then trained back. This page shows which directions "
    "in its weights the way back took, whether they could have been known beforehand, and how long they stay good.",
)
STEERED = (
    "Task",
    "weight steps and steering vectors of",
    "A trained model was neither damaged nor recovered here. This page shows what a step in its weights does to its "
    "activations, whether that is the direction that labelled examples give, and what either does to its answers.",
)
ANALYZED = (
    "Training",
    "recorded training of",
    "A training run was recorded update by update. This page shows how much of its way the first updates hold, how "
    "long its directions last, and how many of them it used.",
)
SPACES = {
    "lora_factors": "LoRA factors A, B",
    "lora_effective": "LoRA effective weights dW",
    "full": "all weights",
    "parameters": "measured parameters",
}
NULLS = {
    "capture": "static bases: another task's plane; all others: first updates on shuffled labels",
    "prefix_share_of_steps": "is itself the value that independent updates would give",
    "krylov_prefix_overlap": "the same overlap with the first updates on shuffled labels",
    "trained_inside": "random directions of the same rank",
    "projected": "random directions of the same rank",
    "overlap": "floor (two random planes) and another task's plane",
    "rescaled_overlap": "another task's plane at the same point",
    "grid_capture": "random directions; updates on shuffled labels",
    "step_cosine": "largest |cosine| at this layer among random weight directions and steps on shuffled labels",
    "best_layer_cosine": "largest best-layer |cosine| among the same draws, each at its own best layer",
    "null_best_layer_cosine": "is itself the null, one value per draw",
    "effect_ratio": "mean size of the same ratio for shifts by random weight directions",
}
NULLS.update(dict.fromkeys(("k90", "k90_share", "participation_ratio"), "gradients for shuffled labels"))
NULLS.update(dict.fromkeys(("entropy_rank", "stable_rank", "mean_cosine"), "gradients for shuffled labels"))

CAPTIONS = {
    "recording-capture": "Share of the displacement from the first to the last recorded point that lies inside a "
    "subspace of k directions. The thin line k / T is what independent updates of equal length would give. The top k "
    "directions of all updates are a reference, not a bound. In dW (scale B A) figures do not depend on how the "
    "factors are scaled. Bars: 95 % interval over recordings.",
    "recording-planes": "Overlap of the planes of two windows of recorded rows: 1 is the same plane. The ceiling is "
    "what the even and the odd rows of one window reach, so it means 'no drift'. Updates share momentum with their "
    "neighbours: only windows beyond its reach are compared, and their ceiling is too high rather than too low.",
    "recording-stale": "Cosine of a direction of one step with the same kind of direction at a later step. Task "
    "vector: displacement from the start; dotted, what sums of independent updates would give. Weight step: mean "
    "gradient or update in a window, over what the even and odd rows of the windows allow.",
    "capture": "Share of the recovery displacement (damaged point to recovered point) that lies inside a "
    "subspace of k directions: 1 means all of it. The right panel leaves out the updates that a basis"
    " was made of, which it holds by construction. The thin line k / T is what independent updates of"
    " equal length would give. The top k directions of all updates are a reference, not a bound. Bars "
    "(95 % interval over seeds) stand only at the first k updates, the best fixed plane and the updates "
    "on shuffled labels; the interval of every other series is in the data table and on hover.",
    "recover": "Held-out accuracy of the damaged task. Dots: only the coordinates inside each subspace were "
    "trained, from the damaged point. Diamonds: the recovery's displacement was projected onto the "
    "subspace, without any training. Vertical lines: the damaged, the recovered and the trained "
    "model.",
    "drift": "Overlap of the plane of fresh task gradients with the plane some steps later: 1 is the same "
    "plane. The ceiling is what two halves of one sample reach, so it means 'no drift'; the floor is "
    "two random planes. Lags that not every seed has are left out. The upright line marks the "
    "half-life: the lag at which half is left.",
    "drift-loss": "One line per seed, one dot per lag. If the plane turned with the count of steps alone, the dots "
    "would not be ordered by the loss. Rescaled: (overlap - floor) / (ceiling - floor), so noise can "
    "put it above 1.",
    "spectrum": "Share of the gradients' squared length held by their strongest directions. A curve that rises at"
    " once means that few directions hold it all. Shuffled labels (dashed) are the null: structure "
    "that has nothing to do with the task. Bands: 95 % interval over seeds.",
    "curves": "One line per seed; the star marks T, the first step at which accuracy is back to its threshold "
    "and stays there. Measurements use the steps up to T, and up to 2T where said.",
    "search-theorem": "Random steps sigma z around the damaged point, the best of N kept. Its mean gain is divided by "
    "the prediction from the gradient alone, sigma |g| m_N: inside the grey band the prediction is right within "
    "10 %. To the right the step sigma grows, told by what curvature should take of (or add to) the gain at that "
    "step. Purple: what the second-order prediction makes of it; where measured lines leave it too, higher "
    "orders matter. Null: the prediction from the gradient on shuffled labels. Bars: 95 % interval over seeds, "
    "for the whole space and the null; those of all others are in the data table and on hover.",
    "search-counts": "Mean gain of the best of N random steps against N, in units of what one step "
    "typically gains to first order (sigma |g|): seeds differ in |g|, and this takes it out. The linear "
    "prediction is then m_N, the mean of the largest of N normal draws. The other two take curvature into "
    "account: exactly to second order in sigma, or for many flat directions. Predictions of zero or less are "
    "left out. Bars: 95 % interval over seeds, cut at the edge where they are long.",
    "search-density": "One dot per subspace. All draws have the same root-mean-square length, so that subspaces of any "
    "rank compare. Across: the gain predicted from the share of the gradient inside; up: the measured gain of "
    "the best of N. On the dashed line both agree. Null: a prediction from another task's gradient. Geometric "
    "means; bars: 95 % interval over seeds of measured over predicted, on logarithms.",
    "search-own": "A subspace that is dense in signal is steep, and pays for it in curvature. Here every subspace is "
    "searched at its own best step, where the second-order gain is largest. Dots: measured; diamonds: "
    "predicted to second order. Where curvature helps there is no best step. Geometric means; bars: 95 % "
    "interval over seeds, on logarithms.",
    "search-size": "The whole study made again with other adapter ranks or widths. Each size is judged by its own "
    "gradient and curvature, at the steps where curvature should change the gain by the shares in the legend. If "
    "the number of parameters does not matter, lines are level. Grey band: 1 ± 5 %. Null: what draws of equal length "
    "would give, which shrink per weight as models grow. Bars: 95 % interval over seeds, cut at the edge where they "
    "are long.",
    "steering-cosine": "Cosine of two shifts of the activations: the one that a gradient step towards the positive "
    "label brings, and the CAA vector (mean over positive minus mean over negative examples). 1 is the same "
    "direction, -1 the opposite one. Jacobian: the limit of a small step. Finite: a step that was made. Grey: as far "
    "as the largest |cosine| of the null draws at that layer reaches, these being random weight directions and steps "
    "on shuffled labels. Crosses: layers where the CAA vectors of two halves of the data agree below 0.95, so that the "
    "vector is no reference. Bars: 95 % interval over seeds, at the gradient step's Jacobian only and cut at the edge "
    "where they are long; those of all others are in the data table and on hover.",
    "steering-draws": "Each dot is one step in one seed, at the layer where its own |cosine| with the CAA vector is "
    "largest, so that the null draws may choose their layer as the gradient step does. Every row holds the seeds in "
    "the same order, from top to bottom. Shown are single draws, so there is no interval; the one over seeds is in "
    "the verdict table.",
    "steering-dose": "The unit vector times dose times |CAA| is added to the activations of one layer while held-out "
    "prompts pass; up is the change of the mean logit difference, positive minus negative label. Left: at equal "
    "length. Right: against the price, the KL divergence that the same dose causes on neutral text. A vector that "
    "steers better stands further from 0 at the same price. Dotted on the right: negative doses. Random directions "
    "have no sign of their own and are turned so that positive doses raise. Bars: 95 % interval over seeds, cut at the "
    "edge where they are long; none at random directions.",
    "steering-linearity": "A step of growing length is made, and its shift of activations is compared with the shift "
    "that the Jacobian foretells. Across: length of the foretold shift, in units of |CAA|. Left: cosine of the two "
    "shifts; right: length of the one over length of the other. At 1 in both, the step is linear. Bars: 95 % "
    "interval over seeds, at the best layer only and cut at the edge where they are long; those of all others are in "
    "the data table and on hover.",
    "steering-effect": "Every vector is given the dose at which it costs the same KL divergence on neutral text; "
    "across is what that dose does to the mean logit difference on held-out prompts. Best layer: each seed's own. The "
    "dose that each vector needs is in the table below. Bars: 95 % interval over seeds.",
    "grid": "Captures at T for each kind of damage (panels) and step size. Differences between panels come "
    "from the recipe, not from the model.",
}


def basis_label(name: str) -> str:
    """Readable name of a basis; an unknown one keeps its code name."""
    return BASES.get(name, name.replace("_", " "))


def search_label(name: str) -> str:
    """Readable name of a space that random search draws in."""
    return SPACES_SEARCHED.get(name) or basis_label(name)


def vector_label(name: str) -> str:
    """Readable name of a vector that activations are steered with."""
    return VECTORS.get(name) or name.replace("_", " ")


def group_of(name: str) -> str:
    """Key in `GROUPS` of a basis."""
    if name in ("prefix", "trajectory_top"):
        return "own"
    if name in STATIC:
        return "static"
    if name == "random":
        return "null"
    head = name.split("_")[0]
    return head if head in GROUPS else "control"
