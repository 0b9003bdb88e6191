"""`lineament adapters`: what LoRA folders hold and share, and the adapter that is made of them. Needs no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lineament.commands.adapters.body import json_body
from lineament.commands.adapters.flags import Adapters
from lineament.commands.adapters.selection import differing_bases, names_of, rank_or_share, sum_in_words, weights_of
from lineament.commands.adapters.tables import in_words, notes, print_adapters, print_comparison
from lineament.commands.terminal import console
from lineament.errors import InputError
from lineament.files.folders import require_writable
from lineament.files.writing import write_bytes
from lineament.merging.overlaps import Comparison, compare_adapters
from lineament.merging.spectra import AdapterSpectrum, adapter_spectrum
from lineament.merging.truncation import truncate_to_rank, truncate_to_share
from lineament.problems.stored_adapters import StoredAdapter, read_adapter, require_own_adapter
from lineament.report.adapters.page import adapters_page, is_adapters_page
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
        least, most = self.ranks
        rank = f"rank {least}" if least == most else f"ranks {least} to {most}"
        cost = "exact" if self.error is None else f"off by {100 * self.error:.3g} % of |dW|"
        return f"{sum_in_words(self.weights)}: {rank}, {cost}"


def adapters(flags: Adapters) -> int:
    """Print what adapters hold and share, and write the one that is asked for; return the exit code."""
    flags.check()
    names = names_of(flags.folders)
    weights = weights_of(flags.combine, names) if flags.combine is not None else {}
    cut = rank_or_share(flags.truncate) if flags.truncate is not None else None
    if flags.out:
        _require_place(flags.out, flags.folders)
    if flags.report:
        _require_page(flags.report)
    torch.set_num_threads(flags.threads)
    stored = dict(zip(names, map(read_adapter, flags.folders), strict=True))
    spectra = {name: adapter_spectrum(adapter) for name, adapter in stored.items()}
    comparison = compare_adapters(list(stored.values()), flags.share) if len(stored) > 1 else None
    made = _made(stored, weights or {names[0]: 1.0}, cut) if weights or cut is not None else None
    if flags.out and made:
        save_stored_adapter(made.adapter, flags.out)
    _show(flags, stored, spectra, comparison, made)
    return 0


def _show(
    flags: Adapters,
    stored: Mapping[str, StoredAdapter],
    spectra: Mapping[str, AdapterSpectrum],
    comparison: Comparison | None,
    made: Made | None,
) -> None:
    """Print figures, as JSON or in words and tables, and write the page; all by adapters' names."""
    bases = {name: one.config.get("base_model_name_or_path") for name, one in stored.items()}
    differing = differing_bases(bases)
    body = json_body(flags.share, dict(zip(stored, flags.folders, strict=True)), spectra, comparison)
    body["notes"] = [differing] if differing else []
    assumed = notes(spectra, comparison is not None)
    if flags.report:
        words = {name: in_words(name, spectrum, flags.share).plain for name, spectrum in spectra.items()}
        write_bytes(flags.report, adapters_page(body, words, assumed).encode())
    if flags.json:
        about = {} if made is None else {"made": _made_body(made, flags.out)}
        print(json.dumps({**body, **about}, indent=1))
        return
    print_adapters(spectra, flags.share, flags.all)
    if comparison:
        print_comparison(list(stored), comparison, flags.all)
    for note in assumed:
        console.print(note, style="dim")
    if differing:
        console.print(differing[0].upper() + differing[1:], style="yellow")
    if made:
        where = f": {flags.out}" if flags.out else " (--out DIR writes it)"
        console.print(f"{made.words}{where}", soft_wrap=True)
    if flags.report:
        console.print(f"report: {flags.report}", soft_wrap=True)


def _require_page(report: Path) -> None:
    """Refuse a page that cannot be written, or whose place a file of somebody else has."""
    if report.suffix != ".html":
        raise InputError(f"the report must end in .html; got {report} (--report).")
    if report.exists() and not (report.is_file() and is_adapters_page(report)):
        raise InputError(f"{report} exists and is no report about adapters; choose another name (--report).")
    require_writable(report.parent, "--report")


def _require_place(out: Path, folders: tuple[Path, ...]) -> None:
    if out.absolute().resolve() in [folder.absolute().resolve() for folder in folders]:
        raise InputError(f"{out} is one of the adapters that are read; choose another folder (--out).")
    require_own_adapter(out)
    require_writable(out)


def _made(stored: Mapping[str, StoredAdapter], weights: dict[str, float], cut: int | float | None) -> Made:
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
