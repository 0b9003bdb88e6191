"""Everything that pages share: templates, style and script, and pictures as a template needs them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lineament.files.naming import safe_name
from lineament.files.reading import read_text
from lineament.files.schemas import read_ours
from lineament.report.legend import Groups, legend
from lineament.report.series import Picture, data_table, undefined_notes
from lineament.report.svg.elements import ALONE, IN_PAGE, swatch
from lineament.report.svg.panels import panel_alone
from lineament.report.svg.standalone import drawings, frame, is_small
from lineament.report.tidy import tidied
from lineament.settings.plain import flattened

HERE = Path(__file__).parent
INTERVAL = re.compile(r"(\[[^\s\]]+, [^\s\]]+\]|\([\d.e+-]+ to [\d.e+-]+\))")


def template(name: str) -> Any:
    """Load a template of this folder; a value that it uses and is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(name)


def assets() -> dict[str, Markup]:
    """Return style and script, which stand in the page so that it opens with no network."""
    light = json.dumps(asdict(ALONE))
    return {
        "style": Markup(read_text(HERE / "report.css")),
        "script": Markup(f"const LIGHT = {light};\n{read_text(HERE / 'report.js')}"),
    }


def drawn(picture: Picture, owner: str, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return a picture with its data, legend, notes and origin, as the templates need it.

    Args:
        owner: what the picture is about; pictures of the same key and other owners stand on one page.
        sources: `names` of the files it was made from and `hashes` of their configurations.
    """
    entries = legend(picture)
    panels = zip(picture.panels, drawings(picture, IN_PAGE), strict=True)
    return {
        "id": f"plot-{identifier(owner)}-{picture.key}",
        "file": safe_name(f"{picture.key}-{owner}"),
        "title": picture.title,
        "caption": picture.caption,
        "small": is_small(picture),
        "panels": [Markup(panel_alone(drawing, panel.title or picture.title, IN_PAGE)) for panel, drawing in panels],
        "frame": Markup(frame(picture)),
        "legend": {"shown": _signed(entries.shown), "more": _signed(entries.more), "n_more": entries.n_more},
        "notes": [*picture.notes, *undefined_notes(picture)],
        "table": tidied(data_table(picture), picture.spread.split()[-1]),
        "sources": sources,
    }


def _signed(groups: Groups) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the entries of a legend with their signs."""
    return [
        (
            name,
            [
                {
                    "key": entry.key,
                    "label": entry.label,
                    "shown": entry.shown,
                    "sign": Markup(swatch(entry.style, IN_PAGE, entry.line, entry.symbol)),
                }
                for entry in entries
            ],
        )
        for name, entries in groups
    ]


def identifier(text: str) -> str:
    """Return a name that can stand in an id; distinct texts stay distinct."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
    return plain if plain == text else f"{plain}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def flat(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the dotted (key, text) pairs of a nested mapping."""
    return [(key, str(value)) for key, value in flattened(body)]


def provenance_lines(folder: Path) -> list[tuple[str, str]]:
    """Return the dotted (key, text) pairs of a folder's provenance.json, sorted; none where there is no such file."""
    path = folder / "provenance.json"
    return sorted(flat(read_ours(path, "provenance", "Delete it: it is made anew."))) if path.exists() else []


def _unbroken(text: str) -> Markup:
    """Let the cells of a table break before an interval, never inside it."""
    return Markup(INTERVAL.sub(r'<span class="num">\1</span>', str(escape(text))))
