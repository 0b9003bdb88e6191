"""How many directions a run really used: over its steps, and inside each adapted weight against the rank paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.problems.factor_pairs import FactorPair
from lineament.records import Label, Quantity
from lineament.streams import Streams
from lineament.vectors.spectrum import spectrum_statistics

DEFINITIONS = {
    "run_rank": "effective rank of the recorded updates u_1..u_T: participation ratio, entropy rank, k90 or stable "
    "rank of their uncentred Gram matrix, raw rows (protocol 1); blind: of a blind run's updates",
    "module_rank": "the same of the singular values of dW_end - dW_start of one adapted weight; at most twice the LoRA "
    "rank, which is `paid`; null: mean over 20 draws of Gaussian factors of the same shapes; blind: of a blind run "
    "from the same start",
    "mean_module_rank": "mean of module_rank over the adapted weights",
}
STATISTICS = ("participation_ratio", "k90", "entropy_rank")
NULL_DRAWS = 20


def run_rank_figures(run: MovingRows, space_of: str) -> list[Quantity]:
    """Effective ranks of the updates, beside those of a blind run's."""
    found = spectrum_statistics(np.linalg.eigvalsh(run.gram.gram))
    blind = {} if run.blind is None else spectrum_statistics(np.linalg.eigvalsh(run.blind.gram))
    return [
        Quantity(
            "run_rank",
            value,
            "directions",
            blind=blind.get(name),
            labels={"statistic": name, "space_of": space_of, "n": run.n_rows},
        )
        for name, value in found.items()
    ]


def module_rank_figures(
    pairs: Sequence[FactorPair],
    spectra: Mapping[str, np.ndarray],
    blind: Mapping[str, Mapping[str, float]],
    options: AnalysisOptions,
) -> list[Quantity]:
    """Effective ranks of what each adapted weight's dW moved by, and their means.

    Args:
        spectra: module -> singular values of dW_end - dW_start.
        blind: module -> effective ranks of a blind run's; empty where there is none.
    """
    figures: list[Quantity] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STATISTICS}
    nulls: dict[tuple[int, int, int], dict[str, float]] = {}
    for pair in pairs:
        shape = (pair.b_shape[0], pair.a_shape[0], pair.a_shape[1])
        if shape not in nulls:
            nulls[shape] = _gaussian_null(*shape, options)
        ranks = spectrum_statistics(np.square(spectra[pair.module]))
        for name in STATISTICS:
            labels: dict[str, Label] = {"module": pair.module, "statistic": name, "paid": pair.a_shape[0]}
            gaussian, chance = nulls[shape][name], blind.get(pair.module, {}).get(name)
            figures.append(
                Quantity("module_rank", ranks[name], "directions", null=gaussian, blind=chance, labels=labels)
            )
            if np.isfinite(ranks[name]):
                found[name].append((ranks[name], nulls[shape][name]))
    paid = float(np.mean([pair.a_shape[0] for pair in pairs]))
    for name, values in found.items():
        labels = {"statistic": name, "paid": paid, "modules": len(pairs)}
        mean, null = np.mean(values, axis=0).tolist() if values else (None, None)
        reason = None if values else "no adapted weight moved"
        mean_blind = float(np.mean([blind[pair.module][name] for pair in pairs])) if blind else None
        figures.append(
            Quantity("mean_module_rank", mean, "directions", null=null, blind=mean_blind, labels=labels, reason=reason)
        )
    return figures


def _gaussian_null(d_out: int, rank: int, d_in: int, options: AnalysisOptions) -> dict[str, float]:
    """Mean statistics of B A for Gaussian factors; the singular values come from the factors' triangles."""
    generator = Streams(options.seed).child("recording").generator("rank null", d_out, rank, d_in)
    drawn = []
    for _ in range(NULL_DRAWS):
        b = np.asarray(np.linalg.qr(generator.standard_normal((d_out, rank)), mode="r"))
        a = np.asarray(np.linalg.qr(generator.standard_normal((d_in, rank)), mode="r"))
        drawn.append(spectrum_statistics(np.square(np.linalg.svd(b @ a.T, compute_uv=False))))
    return {name: float(np.mean([d[name] for d in drawn])) for name in STATISTICS}
