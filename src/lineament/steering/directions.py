"""Directions between two classes of activations: mean difference (CAA), first principal component, logistic probe."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError, require_package

Method = Literal["caa", "pca", "probe"]
# L2 strength of the probe's default in scikit-learn, on activations scaled to unit standard deviation.
PROBE_C = 1.0
PROBE_STEPS = 2000
# Below this agreement of its halves a CAA vector is not a reference (protocol 5).
LEAST_AGREEMENT = 0.95


def caa(
    positive: Float[Tensor, " n_positive *shape"], negative: Float[Tensor, " n_negative *shape"]
) -> Float64[Tensor, "*shape"]:
    """Subtract the mean activation of negative from that of positive examples (CAA, Rimsky 2024).

    Args:
        positive, negative: (n_positive, ...), (n_negative, ...) activations.

    Returns:
        (...) in float64.

    Raises:
        InputError: one class is empty.
    """
    _require_both(len(positive), len(negative))
    return positive.double().mean(dim=0) - negative.double().mean(dim=0)


def pca_of_differences(
    positive: Float[Tensor, "n_positive width"], negative: Float[Tensor, "n_negative width"]
) -> Float64[Tensor, " width"]:
    """Return the first principal axis of the pairs' differences, not centred, with sign and norm of their mean.

    Pairs are taken in order; of unequal classes the surplus is left out. Not centred, since the mean is the signal
    (Zou et al. 2023 centre pairs of random sign, which comes to the same).

    Args:
        positive, negative: (n, width) activations of one layer.
    """
    _require_both(len(positive), len(negative))
    n = min(len(positive), len(negative))
    differences = positive[:n].double() - negative[:n].double()
    mean = caa(positive, negative)
    axis = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    direction: Tensor = axis * mean.norm() * torch.sign(axis @ mean)
    return direction


def require_probe() -> None:
    """Raise `InputError` where no probe can be fitted."""
    require_package("sklearn", "steer", "the method probe (a logistic regression)")


def probe_direction(
    positive: Float[Tensor, "n_positive width"], negative: Float[Tensor, "n_negative width"]
) -> Float64[Tensor, " width"]:
    """Fit a logistic probe and return its direction, of the norm of the mean difference.

    Features are scaled to unit standard deviation and the direction is taken back to activation space, so that it is
    that of the log odds' gradient.

    Args:
        positive, negative: (n, width) activations of one layer.
    """
    require_probe()
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    _require_both(len(positive), len(negative))
    rows = torch.cat([positive, negative]).double().numpy()
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    scale = rows.std(axis=0)
    scale[scale == 0] = 1.0
    fitted = LogisticRegression(C=PROBE_C, max_iter=PROBE_STEPS).fit((rows - rows.mean(axis=0)) / scale, labels)
    normal = torch.from_numpy(fitted.coef_[0] / scale)
    direction: Tensor = normal / normal.norm() * caa(positive, negative).norm()
    return direction


def cosine(first: Float[Tensor, "*first width"], second: Float[Tensor, "*second width"]) -> Float64[Tensor, "*both"]:
    """Return the signed cosine along the last axis, in float64; NaN where a vector is zero."""
    first, second = first.double(), second.double()
    cosines: Tensor = (first * second).sum(dim=-1) / (first.norm(dim=-1) * second.norm(dim=-1))
    return cosines


def _require_both(n_positive: int, n_negative: int) -> None:
    if not n_positive or not n_negative:
        raise InputError(
            f"the data hold {n_positive} positive and {n_negative} negative examples; a contrast needs one of each."
        )
