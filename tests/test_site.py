"""The documentation as a site that is opened from its folder: search, widths, and what it lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_once import made_once
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_report import browser, size

__all__ = ["browser"]  # the fixture of the report's tests
ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SIZES = """
    return [...document.querySelectorAll('.md-typeset pre > code, .md-typeset__scrollwrap')].map(box => ({
      code: box.matches('code'),
      scrolls: box.scrollWidth > box.clientWidth + 1,
      marked: getComputedStyle(box).maskImage !== 'none',
      start: box.textContent.trim().slice(0, 60),
    }))"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(out: Path) -> None:
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
        subprocess.run(build, cwd=ROOT, check=True)

    return made_once(tmp_path_factory, "site", make)


def boxes(browser: webdriver.Chrome, page: Path, width: int) -> list[dict[str, object]]:
    """Code and tables of a page: whether they scroll, and whether a mark shows it."""
    size(browser, width)
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return document.readyState === 'complete'"))
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    found: list[dict[str, object]] = browser.execute_script(SIZES)
    return found


@pytest.mark.slow
def test_built_pages_hold_what_they_include(site: Path) -> None:
    """Formatters of Markdown take the mark of an include for an expression; then the page shows the mark itself."""
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    assert len(pages) > 20
    for page, text in pages.items():
        assert "--8" not in text, page
    assert "lineament.measure(" in re.sub(r"<[^>]+>", "", pages[site / "start.html"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words", "first"),
    [("index.html", "half-life", "glossary.html"), ("how-to/steer.html", "retention", "concepts/drift.html")],
)
def test_the_search_answers_from_a_folder(
    browser: webdriver.Chrome, site: Path, page: str, words: str, first: str
) -> None:
    """No server and no network: the index is a script, and the search runs where browsers allow no worker."""
    size(browser, 1280)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get((site / page).as_uri())
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").click()
    browser.switch_to.active_element.send_keys(words)
    links = WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".md-search-result__link"))
    found = [str(link.get_attribute("href")).partition("?")[0] for link in links]  # type: ignore[no-untyped-call]
    assert found[0].endswith(first), found
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("search_index.js") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.slow
def test_code_fits_a_screen_and_what_scrolls_on_a_phone_is_marked(browser: webdriver.Chrome, site: Path) -> None:
    pages = [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]
    n_scrolling = 0
    for page in pages:
        for width in (1280, 390):
            there = boxes(browser, page, width)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
            assert [box for box in there if box["scrolls"] != box["marked"]] == [], page
            assert width < 1280 or [box for box in there if box["code"] and box["scrolls"]] == [], page
        n_scrolling += sum(bool(box["scrolls"]) for box in there)
    assert n_scrolling > 50


def test_where_to_go_lists_every_concept_and_every_how_to() -> None:
    named = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text()))
    there = {str(page.relative_to(DOCS)) for folder in ("concepts", "how-to") for page in (DOCS / folder).glob("*.md")}
    assert there <= named
    assert {"start.md", "results.md", "gallery/index.md", "glossary.md", "reference/index.md"} <= named
