"""Carrying an optimizer's moments over into a new plane, so that a refresh does not forget what was learned.

With Q = U'^T U, t steps made, m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t):

    m' = Q m
    v' = (1 - beta2^t) | Q o Q (v^ - m^2) + (Q m^)^2 |

v^ - m^2 estimates each coordinate's variance. Variances of independent coordinates add up with squared weights, and
the square of the carried mean is put back. This is the rule of LDAdam (Robert et al., arXiv 2410.16103), which
SubTrack++ (Rajabi et al., arXiv 2502.01586) has taken over. If the plane stays, Q is the identity and nothing changes.

What a new direction i has outside the old plane, 1 - sum_j Q_ij^2, has no moment yet, and the rule counts it as zero.
Adam then divides by too little: it makes long steps along new directions, for about 1 / (1 - beta2) steps, since its
bias correction knows of no second beginning. LDAdam turns its plane a little at every step and hardly meets this; a
plane that is replaced as a whole does. So, unless one asks for the plain rule, the unseen part gets the average second
moment of the old coordinates (our own choice; nothing is added where the new direction lies in the old plane):

    v'_i += (1 - sum_j Q_ij^2) mean_j v_j
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.subspace.projections import Change

CARRIED = (torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop)
KNOWN = "SGD, Adam, AdamW, NAdam, RAdam and RMSprop"
FIRST = ("exp_avg", "momentum_buffer", "grad_avg")
SECOND = ("exp_avg_sq", "square_avg")


def require_carried(optimizer: torch.optim.Optimizer) -> None:
    """Raise `InputError` unless it is known how this optimizer's state is carried into a new plane."""
    if not isinstance(optimizer, CARRIED) or any(group.get("amsgrad") for group in optimizer.param_groups):
        raise InputError(
            "planes are to be refreshed, and it is not known how the state of this "
            f"{type(optimizer).__name__}, or of amsgrad, is carried into a new one. Take one of {KNOWN}, without "
            "amsgrad, or keep the planes with refresh=None."
        )


def carry(state: MutableMapping[str, Any], group: Mapping[str, Any], change: Change, fill_unseen: bool) -> None:
    """Turn the moments of one slot into those of the new plane, in place.

    Args:
        state: the optimizer's state of the slot; may be empty.
        group: its settings: betas, where it has some.
        change: how the old plane is seen from the new one.
        fill_unseen: whether what the old plane did not hold gets the average second moment, and not zero.
    """
    first = {key: state[key] for key in FIRST if isinstance(state.get(key), Tensor)}
    second = {key: state[key] for key in SECOND if isinstance(state.get(key), Tensor)}
    bias1, bias2 = _bias_corrections(state, group)
    mean = next((state[key] for key in ("exp_avg", "grad_avg") if key in first), None)
    for key, old in second.items():
        uncorrected = old / bias2
        if mean is None:  # RMSprop keeps no mean unless it is centred
            carried = change.apply_squared(uncorrected)
        else:
            variance = change.apply_squared(uncorrected - (mean / bias1).square())
            carried = (variance + change.apply(mean / bias1).square()).abs()
        state[key] = bias2 * (carried + change.unseen(uncorrected) if fill_unseen else carried)
    for key, old in first.items():
        state[key] = change.apply(old)


def _bias_corrections(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[float, float]:
    """Return 1 - beta^t of both moments; 1 where an optimizer corrects no bias, and before its first step."""
    steps = float(state.get("step", 0))
    if "betas" not in group or steps == 0:
        return 1.0, 1.0
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return 1 - beta1**steps, 1 - beta2**steps
