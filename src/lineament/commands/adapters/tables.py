"""Adapters on a terminal: sentences first, then tables that fit 80 columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.commands.adapters.body import ranks_below
from lineament.commands.terminal import console
from lineament.merging.overlaps import AdapterPair, Comparison, ModuleOverlap, Overlap, SharedModule, mean_overlap
from lineament.merging.spectra import AdapterSpectrum, ModuleSpectrum

# So many modules have a row each; more are shown by kind, with the strongest ones below.
MAX_MODULES_SHOWN = 12
N_STRONGEST = 3
# So many adapters have a paragraph each; more are rows of a table.
MAX_IN_WORDS = 3
ABOUT_FLOOR = (
    "Blind: a training fed gradients of independent entries, with A near its random start (laws of Marchenko, Pastur "
    "and Silverstein). Above noise: singular values that 95 of 100 blind modules do not have, at the level of the "
    "module's median; it assumes that half of the directions or more are noise, and cannot count more than half."
)
ABOUT_CHANCE = "Chance: of randomly oriented dW. Left is what a module writes, right what it reads."
M = TypeVar("M", ModuleSpectrum, ModuleOverlap)
# A label, and the modules that a row is about.
Row: TypeAlias = tuple[str, list[M]]


def print_adapters(spectra: Mapping[str, AdapterSpectrum], share: float, every: bool) -> None:
    """Print what each adapter uses of what was paid for: in words, or many in a table; by module where there is one."""
    if len(spectra) > MAX_IN_WORDS:
        console.print(_adapter_table(spectra, share))
    for name, spectrum in spectra.items():
        if len(spectra) <= MAX_IN_WORDS:
            console.print(in_words(name, spectrum, share))
        if spectrum.moved and (len(spectra) == 1 or every):
            console.print()
            console.print(_module_table("module" if len(spectra) == 1 else name, spectrum, share, every))
            console.print()


def print_comparison(names: Sequence[str], comparison: Comparison, every: bool) -> None:
    """Print how adapters lie to each other, and what all share; by module for two, or where all are asked for."""
    pairs = {f"{names[i]}, {names[j]}": pair for (i, j), pair in comparison.pairs.items()}
    console.print()
    if len(pairs) == 1 or every:
        for label, pair in pairs.items():
            console.print(_overlap_table(label, pair, every))
    else:
        table = _table("adapters")
        for label, pair in pairs.items():
            table.add_row(label, *_whole_cells(pair))
        console.print(table)
    console.print()
    for label, pair in pairs.items():
        if sum(pair.alone):
            console.print(f"{label}: {pair.alone[0]} and {pair.alone[1]} modules are changed by one of them alone.")
        if (len(pairs) == 1 or pair.same_start) and (words := start_in_words(pair)):
            console.print(f"{label}: {words}")
    console.print(_shared_sentence(names, comparison))


def start_in_words(pair: AdapterPair) -> str:
    """Say whether right overlaps come from the start of both A; empty where it is not known."""
    if pair.cosine_of_a is None or not pair.modules:
        return ""
    figure = f"cosine of A as stored {pair.cosine_of_a:.2g}"
    if not pair.same_start:
        return f"A began at other random numbers ({figure}), so overlaps are learned, or the base model's."
    return f"A began at the same random numbers ({figure}): overlaps on the right come from there too, unlearned."


def percent(share: float) -> str:
    """Write a share as per cent, with two digits, or three where two would make it whole."""
    return f"{100 * share:.{2 if share < 0.995 else 3}g}"


def notes(spectra: Mapping[str, AdapterSpectrum], compared: bool) -> list[str]:
    """Return what the figures assume."""
    moved = any(spectrum.moved for spectrum in spectra.values())
    return [ABOUT_FLOOR] * moved + [ABOUT_CHANCE] * compared


def in_words(name: str, spectrum: AdapterSpectrum, share: float) -> Text:
    """Say in a paragraph what an adapter uses of the rank that was paid for, and what less would cost."""
    used, blind, n = spectrum.used(share), spectrum.blind_used(share), len(spectrum.moved)
    if used is None:
        what = f": dW is zero in all {len(spectrum.modules)} modules; the adapter changes nothing."
        return Text.assemble((name, "bold"), what)
    where = f"{100 * share:g} % of |dW|^2, {'one module' if n == 1 else f'mean of {n} modules'}"
    text = Text.assemble(
        *((name, "bold"), f": rank {spectrum.paid:.3g} paid for, ", (f"{used:.2g} used", "bold")),
        f" ({where}); a blind training uses {blind:.2g}. |dW| is {spectrum.norm:.3g}. ",
        f"Rank {spectrum.rank(0.99)} in every module holds 99 % of |dW|^2.",
    )
    cuts = {rank: percent(spectrum.truncation_error(rank)) for rank in sorted(ranks_below(spectrum), reverse=True)}
    if cuts:
        text.append(f" Cut to rank {', '.join(map(str, cuts))} it is off by {', '.join(cuts.values())} % of |dW|.")
    above, held = spectrum.mean(lambda module: module.above_floor), spectrum.share_above_floor
    if above is not None and held is not None:
        found = f"{above:.2g} directions a module stand above noise, with {percent(held)} % of |dW|^2."
        text.append(f" {found if above > 0 else 'None stands above noise.'}")
    if n < len(spectrum.modules):
        text.append(f" {len(spectrum.modules) - n} more modules are adapted and did not move (dW = 0).")
    return text


def _adapter_table(spectra: Mapping[str, AdapterSpectrum], share: float) -> Table:
    table = _plain_table("adapter", ("modules", "|dW|", "paid", f"{100 * share:g} %", "blind", "above noise"))
    for name, spectrum in spectra.items():
        above = spectrum.mean(lambda module: module.above_floor)
        figures = (spectrum.paid, spectrum.used(share), spectrum.blind_used(share), above)
        cells = ("-" if figure is None else f"{figure:.2g}" for figure in figures)
        table.add_row(name, str(len(spectrum.moved)), f"{spectrum.norm:.3g}", *cells)
    return table


def _module_table(title: str, spectrum: AdapterSpectrum, share: float, every: bool) -> Table:
    heads = ("|dW|", "of all", "paid", f"{100 * share:g} %", "99 %", "blind", "above noise")
    table = _plain_table(title, heads)
    total = spectrum.norm**2

    rows, strongest = _rows(spectrum.moved, lambda module: module.energy, every)
    for label, modules in rows + strongest:
        energies = [one.energy for one in modules]
        ranks = [(one.paid, one.rank(share), one.rank(0.99), one.blind_rank(share)) for one in modules]
        above = [one.above_floor for one in modules if one.above_floor is not None]
        table.add_row(
            label,
            f"{np.sqrt(np.mean(energies)):.3g}",
            f"{percent(sum(energies) / total)} %",
            *(f"{mean:.3g}" for mean in np.mean(ranks, axis=0)),
            f"{np.mean(above):.2g}" if above else "-",
            end_section=bool(strongest) and label == rows[-1][0],
        )
    return table


def _overlap_table(title: str, pair: AdapterPair, every: bool) -> Table:
    table = _table(title)
    table.add_row(Text("all", "bold"), *_whole_cells(pair))
    rows, strongest = _rows(pair.modules, lambda module: abs(module.inner), every)
    for label, modules in rows + strongest:
        cosine = float(np.mean([one.cosine for one in modules]))
        spread = float(np.sqrt(np.sum([one.cosine_spread**2 for one in modules])) / len(modules))
        left, right = (mean_overlap([getattr(one, side) for one in modules]) for side in ("left", "right"))
        last = bool(strongest) and label == rows[-1][0]
        table.add_row(label, *_pair_cells(cosine, spread, left, right), end_section=last)
    return table


def _rows(modules: Sequence[M], strength: Callable[[M], float], every: bool) -> tuple[list[Row[M]], list[Row[M]]]:
    """Return rows of a table: every module, or those of a kind together and then, by themselves, the strongest ones."""
    start = _common_start([module.module for module in modules])
    if every or len(modules) <= MAX_MODULES_SHOWN:
        return [(module.module[start:], [module]) for module in modules], []
    kinds: dict[str, list[M]] = {}
    for module in modules:
        kinds.setdefault(_kind(module.module[start:]), []).append(module)
    strongest = sorted(modules, key=strength, reverse=True)[:N_STRONGEST]
    rows = [(f"{kind} ({len(own)})", own) for kind, own in kinds.items()]
    return rows, [(module.module[start:], [module]) for module in strongest]


def _kind(module: str) -> str:
    """Return a module's path without its numbers: what it is in every layer."""
    return ".".join(part for part in module.split(".") if not part.isdigit())


def _common_start(modules: Sequence[str]) -> int:
    """Return how many letters of the paths to leave out: the parts that all have in common, up to the first number."""
    parts = [module.split(".") for module in modules]
    common = 0
    while parts and all(len(one) > common + 1 and one[common] == parts[0][common] for one in parts):
        if re.fullmatch(r"\d+", parts[0][common]):
            break
        common += 1
    return sum(len(part) + 1 for part in parts[0][:common]) if parts else 0


def _shared_sentence(names: Sequence[str], comparison: Comparison) -> str:
    share, shared = comparison.share, comparison.shared
    if not shared:
        return "No module is changed by all of them."
    both = "both" if len(names) == 2 else f"all {len(names)}"
    ranks = float(np.mean([min(module.ranks) for module in shared]))
    left, right = (_mean_shared(shared, side) for side in ("left", "right"))
    return (
        f"Shared by {both}, of the {ranks:.2g} directions a module that hold {100 * share:g} % of |dW|^2: "
        f"{left[0]:.2g} left, with {percent(left[1])} % of |dW|^2, and {right[0]:.2g} right, with "
        f"{percent(right[1])} %."
    )


def _mean_shared(shared: Sequence[SharedModule], side: str) -> tuple[float, float]:
    planes = [getattr(module, side) for module in shared]
    return float(np.mean([one.n_shared for one in planes])), float(np.mean([np.mean(one.energies) for one in planes]))


def _whole_cells(pair: AdapterPair) -> Iterator[str]:
    return _pair_cells(pair.cosine, pair.cosine_spread, pair.mean("left"), pair.mean("right"))


def _pair_cells(
    cosine: float | None, spread: float | None, left: Overlap | None, right: Overlap | None
) -> Iterator[str]:
    yield "-" if cosine is None else f"{cosine:+.3f}"
    yield "-" if spread is None else f"±{spread:.2g}"
    for overlap in (left, right):
        yield "-" if overlap is None else f"{overlap.value:.3f}"
        yield "-" if overlap is None else f"{overlap.chance:.2g}"


def _table(first: str) -> Table:
    return _plain_table(first, ("cosine", "chance", "left", "chance", "right", "chance"))


def _plain_table(first: str, heads: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table
