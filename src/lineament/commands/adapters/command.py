"""`lineament adapters`: what LoRA folders hold and share, and the adapter that is made of them. Needs no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from lineament.commands.adapters.body import json_body
from lineament.commands.adapters.flags import Adapters
from lineament.commands.adapters.selection import differing_bases, names_of, rank_or_share, weights_of
from lineament.commands.adapters.tables import print_adapters, print_comparison, print_notes
from lineament.commands.terminal import console
from lineament.errors import InputError
from lineament.files.folders import require_writable
from lineament.merging.overlaps import compare_adapters
from lineament.merging.spectra import adapter_spectrum
from lineament.merging.truncation import truncate_to_rank, truncate_to_share
from lineament.problems.stored_adapters import StoredAdapter, read_adapter, require_own_adapter
from lineament.vectors.adapter_algebra import combine_adapters, save_stored_adapter


@dataclass(frozen=True)
class Made:
    """An adapter that was asked for.

    Attributes:
        error: |dW - made dW| / |dW| of a truncation; None for a sum, which is exact.
        weights: name -> weight, of those that are not 0. ranks: the least and the largest of its modules.
    """

    adapter: StoredAdapter
    error: float | None
    weights: dict[str, float]
    ranks: tuple[int, int]

    @property
    def words(self) -> str:
        """What it is, with what it costs."""
        parts = [name if weight == 1 else f"{weight:g} {name}" for name, weight in self.weights.items()]
        least, most = self.ranks
        rank = f"rank {least}" if least == most else f"ranks {least} to {most}"
        cost = "exact" if self.error is None else f"off by {100 * self.error:.3g} % of |dW|"
        return f"{' + '.join(parts).replace('+ -', '- ')}: {rank}, {cost}"


def adapters(flags: Adapters) -> int:
    """Print what adapters hold and share, and write the one that is asked for; return the exit code."""
    flags.check()
    names = names_of(flags.folders)
    weights = weights_of(flags.combine, names) if flags.combine is not None else {}
    cut = rank_or_share(flags.truncate) if flags.truncate is not None else None
    if flags.out:
        _require_place(flags.out, flags.folders)
    torch.set_num_threads(flags.threads)
    stored = dict(zip(names, map(read_adapter, flags.folders), strict=True))
    spectra = {name: adapter_spectrum(adapter) for name, adapter in stored.items()}
    comparison = compare_adapters(list(stored.values()), flags.share) if len(stored) > 1 else None
    note = differing_bases({name: one.config.get("base_model_name_or_path") for name, one in stored.items()})
    made = _made(stored, weights or {names[0]: 1.0}, cut) if weights or cut is not None else None
    if flags.out and made:
        save_stored_adapter(made.adapter, flags.out)
    if flags.json:
        body = json_body(flags.share, dict(zip(names, flags.folders, strict=True)), spectra, comparison)
        about = {} if made is None else {"made": _made_body(made, flags.out)}
        print(json.dumps({**body, **about, "notes": [note] if note else []}, indent=1))
        return 0
    print_adapters(spectra, flags.share, flags.all)
    if comparison:
        print_comparison(names, comparison, flags.all)
    print_notes(spectra, comparison is not None)
    if note:
        console.print(note[0].upper() + note[1:], style="yellow")
    if made:
        console.print(f"{made.words}{f': {flags.out}' if flags.out else ' (--out DIR writes it)'}", soft_wrap=True)
    return 0


def _require_place(out: Path, folders: tuple[Path, ...]) -> None:
    if out.absolute().resolve() in [folder.absolute().resolve() for folder in folders]:
        raise InputError(f"{out} is one of the adapters that are read; choose another folder (--out).")
    require_own_adapter(out)
    require_writable(out)


def _made(stored: dict[str, StoredAdapter], weights: dict[str, float], cut: int | float | None) -> Made:
    """Add adapters, and cut the sum where a rank or share says so; one adapter alone is taken as it is."""
    counted = {name: weight for name, weight in weights.items() if weight}
    alone = list(counted.values()) == [1.0]
    parts = [stored[name] for name in counted]
    adapter, error = parts[0] if alone else combine_adapters(parts, list(counted.values())), None
    if cut is not None:
        truncated = truncate_to_rank(adapter, cut) if isinstance(cut, int) else truncate_to_share(adapter, cut)
        adapter, error = truncated.adapter, truncated.error
    ranks = [len(own.a) for own in adapter.factors.values()]
    return Made(adapter, error, counted, (min(ranks), max(ranks)))


def _made_body(made: Made, out: Path | None) -> dict[str, object]:
    return {
        "weights": made.weights,
        "least_rank": made.ranks[0],
        "largest_rank": made.ranks[1],
        "relative_error": made.error or 0.0,
        "folder": None if out is None else str(out),
    }
