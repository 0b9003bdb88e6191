"""Tasks of the synthetic problem: each maps digit sequences to answer sequences of the same length.

To add a task, write one function `(n_examples, length) -> (n_examples, length)` and one line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

N_DIGITS = 10
Digits = np.ndarray  # (n_examples, length), integers 0..9


@dataclass(frozen=True)
class SyntheticTask:
    """A task: its answer function and how many different answers a token can have (0 .. n_answers - 1)."""

    answer: Callable[[Digits], Digits]
    n_answers: int = N_DIGITS


def copy(x: Digits) -> Digits:
    """Return the input itself."""
    return x


def reverse(x: Digits) -> Digits:
    """Return the input backwards."""
    return x[:, ::-1]


def sort(x: Digits) -> Digits:
    """Sort the digits in ascending order."""
    return np.sort(x, axis=1)


def increment(x: Digits) -> Digits:
    """Add one to each digit, modulo 10."""
    return (x + 1) % N_DIGITS


def parity(x: Digits) -> Digits:
    """Return the running parity: the sum of the digits so far, modulo 2."""
    return np.cumsum(x, axis=1) % 2


def maximum(x: Digits) -> Digits:
    """Return the running maximum."""
    result: Digits = np.maximum.accumulate(x, axis=1)
    return result


def modular_add(x: Digits) -> Digits:
    """Add the first digit to each, modulo 10."""
    result: Digits = (x + x[:, :1]) % N_DIGITS
    return result


def permute(x: Digits) -> Digits:
    """Permute the places: the odd ones, then the even ones."""
    order = [*range(1, x.shape[1], 2), *range(0, x.shape[1], 2)]
    return x[:, order]


TASKS: dict[str, SyntheticTask] = {
    "copy": SyntheticTask(copy),
    "reverse": SyntheticTask(reverse),
    "sort": SyntheticTask(sort),
    "increment": SyntheticTask(increment),
    "parity": SyntheticTask(parity, n_answers=2),
    "maximum": SyntheticTask(maximum),
    "modular_add": SyntheticTask(modular_add),
    "permute": SyntheticTask(permute),
}
