"""Settings `measurement.*`: sizes of the measurements of gradients, captures and drift."""

from __future__ import annotations

from dataclasses import dataclass

from lineament.settings.fields import AtLeastTwo, NonEmpty, PositiveInt, setting


@dataclass(frozen=True)
class MeasureSettings:
    """Sizes of the measurements."""

    ranks: NonEmpty[PositiveInt] = setting((1, 2, 5, 10, 20), "Ranks at which captures are measured.", "directions")
    headline_rank: PositiveInt = setting(10, "Rank at which claims are judged, one of measurement.ranks.", "directions")
    gradients: AtLeastTwo = setting(64, "Number of gradients in each spectrum and each static basis.", "gradients")
    minibatch: PositiveInt = setting(8, "Batch size of a minibatch gradient.", "examples")
    curvature_batch: PositiveInt = setting(128, "Size of the fixed batch of Hessian-vector products.", "examples")
    lanczos_steps: PositiveInt = setting(
        40,
        "Length of the Lanczos iteration for the top eigenvectors; at least the largest rank is taken.",
        "Hessian-vector products",
    )
    task_vector_steps: PositiveInt = setting(
        30, "Length of the training of each task vector from theta_star.", "optimizer steps"
    )
    random_draws: PositiveInt = setting(
        20, "Number of random sets of steps that random_times is the mean over.", "draws"
    )
    inside_steps: PositiveInt = setting(50, "Length of the training inside a subspace.", "optimizer steps")
    inside_batch: PositiveInt = setting(32, "Batch size of the training inside a subspace.", "examples per step")
    inside_all: bool = setting(
        False, "Train inside every basis at every rank, not inside five bases at the headline rank alone."
    )
    drift_gradients: PositiveInt = setting(
        32, "Number of minibatch gradients in each half at each time of the drift measurement.", "gradients"
    )
    drift_rank: PositiveInt = setting(5, "Rank of the bases whose drift is measured.", "directions")
    drift_lags: NonEmpty[PositiveInt] = setting(
        (2, 5, 10, 20, 50, 100),
        "Lags at which drift is measured, besides T / 4, 3 T / 8, T / 2 and the longest; those above the longest are "
        "left out.",
        "optimizer steps",
    )
    grid: bool = setting(False, "Repeat the captures over three step sizes and three kinds of damage.")
