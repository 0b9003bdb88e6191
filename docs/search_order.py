"""Order of the search's results: pages that explain come before the lists of names."""

from __future__ import annotations

from typing import Any

WEIGHTS = {"glossary.md": 2.0, "concepts/": 2.0, "how-to/add-a-": 0.5, "reference/": 0.1}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Give the page its weight, under the key that the theme's search reads."""
    for start, weight in WEIGHTS.items():
        if page.file.src_uri.startswith(start):
            page.meta.setdefault("search", {})["boost"] = weight
    return markdown
