"""Second implementations in dense float64: slow, obvious, and sharing no code with what they judge."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module

from lineament.problems.problem import Batch, Problem


def raw_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Examples start .. stop - 1 with every column kept, padding included."""
    parts = (batch.input_ids, batch.attention_mask, batch.positions, batch.targets)
    return Batch(*(part[start:stop] for part in parts), batch.choices)


def dense_gradients(problem: Problem, batch: Batch, group_size: int = 1) -> np.ndarray:
    """(n_groups, n_params) float64: one autograd call per group of examples."""
    parameters = dict(problem.parameters.module.named_parameters())
    rows = []
    for start in range(0, len(batch), group_size):
        loss = problem.example_losses(raw_rows(batch, start, start + group_size)).sum() / group_size
        chosen = [parameters[name] for name in problem.parameters.names]
        found = torch.autograd.grad(loss, chosen, allow_unused=True)
        filled = [np.zeros(p.numel()) if g is None else g.numpy().ravel() for p, g in zip(chosen, found, strict=True)]
        rows.append(np.concatenate(filled))
    return np.stack(rows).astype(np.float64)


def dense_hessian(problem: Problem, batch: Batch) -> np.ndarray:
    """(n_params, n_params) by torch.autograd.functional.hessian over the flat vector."""
    names, shapes = problem.parameters.names, [p.shape for p in problem.parameters.tensors]

    def loss_at(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        with _reparametrize_module(problem.parameters.module, values):
            return problem.example_losses(batch).mean()

    theta = torch.cat([p.detach().reshape(-1) for p in problem.parameters.tensors])
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(loss_at, theta).numpy()


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """(n_params, k) orthonormal columns spanning independent rows, by QR."""
    return np.linalg.qr(np.asarray(rows, dtype=np.float64).T)[0]


def dense_capture(rows: np.ndarray, vector: np.ndarray) -> float:
    """1 - |residual|^2 / |d|^2 of the least-squares fit of d by the rows."""
    solution = np.linalg.lstsq(rows.T, vector, rcond=None)[0]
    residual = vector - rows.T @ solution
    return float(1 - residual @ residual / (vector @ vector))


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Principal angles of two column spaces, ascending, in radians."""
    return np.sort(scipy.linalg.subspace_angles(first, second))


def dense_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared cosine of the principal angles."""
    return float(np.mean(np.cos(angles(first, second)) ** 2))


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the truth."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))
