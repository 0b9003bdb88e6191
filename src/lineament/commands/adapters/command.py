"""`lineament adapters`: what LoRA folders hold and share, and the adapter that is made of them. Needs no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch

from lineament.commands.adapters.body import json_body
from lineament.commands.adapters.flags import Adapters
from lineament.commands.adapters.selection import differing_bases, names_of, rank_or_share, sum_in_words, weights_of
from lineament.commands.adapters.tables import in_words, notes, print_adapters, print_comparison
from lineament.commands.terminal import console, say_end, say_next, steps_shown
from lineament.errors import InputError
from lineament.files.folders import require_writable
from lineament.files.writing import write_bytes
from lineament.merging.overlaps import Comparison, compare_adapters
from lineament.merging.spectra import AdapterSpectrum, adapter_spectrum
from lineament.merging.truncation import truncate_to_rank, truncate_to_share
from lineament.problems.stored_adapters import WEIGHTS, StoredAdapter, read_adapter, require_own_adapter
from lineament.report.adapters.page import adapters_page, is_adapters_page
from lineament.vectors.adapter_algebra import combine_adapters, save_stored_adapter

# Bytes of weights that take more than two seconds, and the share of |dW|^2 that a rank is proposed for.
LONG, SHARE_TO_KEEP = 2**26, 0.99


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
    stored, spectra, comparison = _figures(flags, names)
    made = _made(stored, weights or {names[0]: 1.0}, cut) if weights or cut is not None else None
    if flags.out and made:
        save_stored_adapter(made.adapter, flags.out)
    _show(flags, stored, spectra, comparison, made)
    quiet, commands = flags.quiet or flags.json, _next(flags, stored, spectra)
    if flags.report:
        say_end(quiet, flags.report, commands, data=flags.json)
    else:
        say_next(quiet or not commands, commands)
    return 0


def _figures(
    flags: Adapters, names: Sequence[str]
) -> tuple[dict[str, StoredAdapter], dict[str, AdapterSpectrum], Comparison | None]:
    """Read the adapters, and return what each holds and what they share, by name; show progress where it takes long."""
    n, brief = len(names), sum(map(_size, flags.folders)) < LONG
    with steps_shown(flags.quiet or brief, n + (n * n / 2 if n > 1 else 0)) as step:
        stored, spectra = {}, {}
        for name, folder in zip(names, flags.folders, strict=True):
            step(f"singular values of {name}", 1)
            stored[name] = read_adapter(folder)
            spectra[name] = adapter_spectrum(stored[name])
        if n == 1:
            return stored, spectra, None

        def compared(what: str, _done: int, total: int) -> None:
            step(what, n * n / 2 / total)

        return stored, spectra, compare_adapters(list(stored.values()), flags.share, compared)


def _size(folder: Path) -> int:
    try:
        return (folder / WEIGHTS).stat().st_size
    except OSError:  # reading it says what is wrong
        return 0


def _next(flags: Adapters, stored: Mapping[str, StoredAdapter], spectra: Mapping[str, AdapterSpectrum]) -> list[str]:
    """Return what to type next: look at what was made, cut a single adapter, or measure a pair on data."""
    if flags.out:
        return [f"lineament adapters {quote(str(flags.out))}"]
    folders = [quote(str(folder)) for folder in flags.folders]
    if len(folders) == 2:
        bases = {one.base_model or "MODEL" for one in stored.values()}
        base = bases.pop() if len(bases) == 1 else "MODEL"
        return [f"lineament compose {' '.join(folders)} --model {quote(base)} --data A.jsonl --data B.jsonl"]
    first = next(iter(spectra.values()))
    rank = first.rank(SHARE_TO_KEEP)
    if len(folders) == 1 and 0 < rank < first.paid:
        return [f"lineament adapters {folders[0]} --truncate {rank} --out DIR"]
    return []


def _show(
    flags: Adapters,
    stored: Mapping[str, StoredAdapter],
    spectra: Mapping[str, AdapterSpectrum],
    comparison: Comparison | None,
    made: Made | None,
) -> None:
    """Print figures, as JSON or in words and tables, and write the page; all by adapters' names."""
    bases = {name: one.base_model for name, one in stored.items()}
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
