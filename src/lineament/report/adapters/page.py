"""The page of `lineament adapters --report`: what adapters hold and share by layer, without script or network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lineament.errors import InputError
from lineament.files.reading import read_text
from lineament.report.grids import Cell, Grid, layer_grid, pair_grid
from lineament.report.rendering import HERE, identifier, template
from lineament.report.series import Table

MOST_ADAPTERS_BY_LAYER, MOST_NAMED = 4, 3
SIDES = {"left": "write", "right": "read"}
# How such a page is known again, before it is written over.
TITLE = "<title>LoRA adapters: "


def adapters_page(body: Mapping[str, Any], words: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return the page as text; the same figures always give the same text.

    Args:
        body: the figures, as `lineament adapters --json` prints them.
        words: adapter's name -> what it holds, in sentences. notes: what the figures assume.
    """
    names = [adapter["name"] for adapter in body["adapters"]]
    page: str = template("adapters.html.j2").render(
        title=", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} on one base",
        lead=list(words.values()) if len(names) <= MOST_NAMED else [],
        adapters=[
            {
                "id": f"adapter-{identifier(adapter['name'])}",
                "name": adapter["name"],
                "words": words[adapter["name"]],
                "facts": _facts(adapter),
                "grids": list(_adapter_grids(adapter, body["share"])),
                "table": _module_table(adapter, body["share"]),
            }
            for adapter in body["adapters"]
        ],
        pairs=[_pair(pair, len(names)) for pair in body.get("pairs", ())],
        square=_square(names, body["pairs"]) if len(names) > 2 else None,
        notes=[*notes, *body.get("notes", ())],
        style=Markup(read_text(HERE / "report.css")),
    )
    return page


def is_adapters_page(path: Path) -> bool:
    """Return whether a file is a page that `adapters_page` made."""
    try:
        return TITLE in read_text(path)
    except InputError:
        return False


def _facts(adapter: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("folder", adapter["folder"]),
        ("modules", str(adapter["modules"])),
        ("rank", f"{adapter['rank_paid']:.3g}"),
        ("|dW|", f"{adapter['norm']:.3g}"),
    ]


def _adapter_grids(adapter: Mapping[str, Any], share: float) -> Iterator[Grid]:
    key, name = identifier(adapter["name"]), adapter["name"]
    modules = [module for module in adapter["by_module"] if module["norm"] > 0]
    if not modules:
        return
    yield layer_grid(
        f"used-{key}",
        f"Rank used by {name}, by layer and module",
        modules,
        lambda module: Cell(
            str(module["rank_used"]), module["rank_used"] / module["rank_paid"], _used_words(module, share)
        ),
        f"Directions that hold {100 * share:g} % of |dW|^2, darker where more of the rank that was paid for is used.",
    )
    largest = max(module["norm"] for module in modules)
    yield layer_grid(
        f"norm-{key}",
        f"Where {name} changes the weights",
        modules,
        lambda module: Cell(f"{module['norm']:.2g}", module["norm"] / largest, _used_words(module, share)),
        "|dW| of each module, darker where it is larger.",
    )


def _used_words(module: Mapping[str, Any], share: float) -> str:
    above = module["directions_above_floor"]
    noise = "" if above is None else f", {above} above noise"
    return (
        f"{module['module']}: {module['rank_used']} of {module['rank_paid']} hold {100 * share:g} % (blind "
        f"{module['rank_used_blind']}){noise}; |dW| {module['norm']:.3g}"
    )


def _pair(pair: Mapping[str, Any], n_adapters: int) -> dict[str, Any]:
    title = f"{pair['first']} and {pair['second']}"
    key = identifier(f"{pair['first']}-{pair['second']}")
    by_layer = n_adapters <= MOST_ADAPTERS_BY_LAYER and pair["by_module"]
    return {
        "id": f"pair-{key}",
        "title": title,
        "words": _pair_words(pair),
        "grids": list(_pair_grids(key, pair["by_module"])) if by_layer else [],
    }


def _pair_words(pair: Mapping[str, Any]) -> str:
    if pair["cosine"] is None:
        return "One of them changes nothing, so they have no angle."
    text = f"The cosine of dW is {pair['cosine']:+.3f}, by chance 0 ± {pair['cosine_spread']:.2g}."
    for side, what in SIDES.items():
        if overlap := pair[side]:
            text += f" What they {what} ({side}) overlaps by {overlap['value']:.2f}, by chance {overlap['chance']:.2g}."
    if pair["same_start"]:
        text += " A of both began at the same random numbers: overlaps on the right come from there too, unlearned."
    return text


def _pair_grids(key: str, modules: Sequence[Mapping[str, Any]]) -> Iterator[Grid]:
    yield layer_grid(
        f"cosine-{key}",
        "Cosine of dW",
        modules,
        lambda module: Cell(_signed(module["cosine"]), module["cosine"], _cosine_words(module)),
        "Blue where they agree, orange where they oppose each other.",
    )
    for side, what in SIDES.items():
        yield layer_grid(
            f"{side}-{key}",
            f"Overlap of what they {what} ({side})",
            modules,
            partial(_overlap_cell, side),
            "Darker where the leading directions of both lie in one another.",
        )


def _signed(cosine: float) -> str:
    return "0.00" if abs(cosine) < 0.005 else f"{cosine:+.2f}"


def _cosine_words(module: Mapping[str, Any]) -> str:
    return f"{module['module']}: {module['cosine']:+.3f}, by chance 0 ± {module['cosine_spread']:.2g}"


def _overlap_cell(side: str, module: Mapping[str, Any]) -> Cell:
    found = module[side]
    words = f"{module['module']}: {found['value']:.3f}, by chance {found['chance']:.2g} ± {found['spread']:.2g}"
    return Cell(f"{found['value']:.2f}", found["value"], words)


def _square(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> Grid:
    by_names = {(pair["first"], pair["second"]): pair for pair in pairs}
    cells = {
        (one, other): Cell(_signed(pair["cosine"]), pair["cosine"], f"{one}, {other}: {_pair_words(pair)}")
        for one, other in combinations(names, 2)
        if (pair := by_names[one, other])["cosine"] is not None
    }
    note = "Blue where two adapters agree, orange where they oppose each other."
    return pair_grid("cosines", "Cosine of dW, every pair", names, cells, note)


def _module_table(adapter: Mapping[str, Any], share: float) -> Table:
    rows = [
        [
            module["module"],
            f"{module['shape'][0]} x {module['shape'][1]}",
            f"{module['norm']:.3g}",
            str(module["rank_paid"]),
            str(module["rank_used"]),
            str(module["rank_used_blind"]),
            "-" if module["directions_above_floor"] is None else str(module["directions_above_floor"]),
            ", ".join(f"{value:.2g}" for value in module["singular_values"][:8]),
        ]
        for module in adapter["by_module"]
    ]
    heads = ("module", "shape", "|dW|", "paid", f"{100 * share:g} %", "blind", "above noise", "first singular values")
    return Table(f"All modules of {adapter['name']}", heads, rows)
