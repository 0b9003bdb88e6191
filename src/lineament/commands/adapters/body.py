"""The figures of `lineament adapters` as plain values for JSON; what is not defined is null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lineament.merging.overlaps import AdapterPair, Comparison, Overlap, SharedModule
from lineament.merging.spectra import AdapterSpectrum, ModuleSpectrum

SHARES = (0.9, 0.99)


def json_body(
    share: float,
    folders: Mapping[str, Path],
    spectra: Mapping[str, AdapterSpectrum],
    comparison: Comparison | None,
) -> dict[str, Any]:
    """Return all figures of adapters and of their comparison.

    Args:
        folders, spectra: by the adapter's name.
    """
    names = list(spectra)
    body: dict[str, Any] = {
        "schema": 1,
        "share": share,
        "adapters": [
            {"name": name, "folder": str(folders[name]), **_adapter(spectrum, share)}
            for name, spectrum in spectra.items()
        ],
    }
    if comparison:
        body["pairs"] = [
            {"first": names[i], "second": names[j], **_pair(pair)} for (i, j), pair in comparison.pairs.items()
        ]
        body["shared"] = [_shared(module, names) for module in comparison.shared]
    return body


def ranks_below(spectrum: AdapterSpectrum) -> Iterator[int]:
    """Yield the powers of two below the largest rank that was paid for."""
    rank, most = 1, max(module.paid for module in spectrum.modules)
    while rank < most:
        yield rank
        rank *= 2


def _adapter(spectrum: AdapterSpectrum, share: float) -> dict[str, Any]:
    return {
        "modules": len(spectrum.modules),
        "modules_of_zeros": len(spectrum.modules) - len(spectrum.moved),
        "norm": spectrum.norm,
        "rank_paid": spectrum.paid,
        "rank_used": spectrum.used(share),
        "rank_used_blind": spectrum.blind_used(share),
        "participation": spectrum.mean(lambda module: module.participation),
        "participation_blind": spectrum.mean(lambda module: module.blind_participation),
        "directions_above_floor": spectrum.mean(lambda module: module.above_floor),
        "share_above_floor": spectrum.share_above_floor,
        "rank_for_share": {f"{one:g}": spectrum.rank(one) for one in sorted({share, *SHARES})},
        "truncation_error": {str(rank): _number(spectrum.truncation_error(rank)) for rank in ranks_below(spectrum)},
        "by_module": [_module(module, share) for module in spectrum.modules],
    }


def _module(module: ModuleSpectrum, share: float) -> dict[str, Any]:
    return {
        "module": module.module,
        "shape": [module.d_out, module.d_in],
        "norm": module.norm,
        "rank_paid": module.paid,
        "rank_used": module.rank(share),
        "rank_used_blind": module.blind_rank(share),
        "participation": _number(module.participation),
        "participation_blind": _number(module.blind_participation),
        "floor": module.floor,
        "directions_above_floor": module.above_floor,
        "singular_values": module.values.tolist(),
    }


def _pair(pair: AdapterPair) -> dict[str, Any]:
    return {
        "cosine": pair.cosine,
        "cosine_spread": pair.cosine_spread,
        "cosine_of_a": pair.cosine_of_a,
        "same_start": pair.same_start,
        "left": _overlap(pair.mean("left")),
        "right": _overlap(pair.mean("right")),
        "modules_of_first_alone": pair.alone[0],
        "modules_of_second_alone": pair.alone[1],
        "by_module": [
            {
                "module": module.module,
                "ranks": list(module.ranks),
                "cosine": module.cosine,
                "cosine_spread": module.cosine_spread,
                "left": _overlap(module.left),
                "right": _overlap(module.right),
            }
            for module in pair.modules
        ],
    }


def _shared(module: SharedModule, names: list[str]) -> dict[str, Any]:
    sides = {
        side: {**asdict(plane), "energies": dict(zip(names, plane.energies, strict=True))}
        for side, plane in (("left", module.left), ("right", module.right))
    }
    return {"module": module.module, "ranks": dict(zip(names, module.ranks, strict=True)), **sides}


def _overlap(overlap: Overlap | None) -> dict[str, float] | None:
    return None if overlap is None else asdict(overlap)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
