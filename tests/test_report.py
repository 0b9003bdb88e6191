"""The report of a real run in headless Chromium: it draws, asks the network for nothing, and fits phone and print."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from search_records import search_records
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from steering_records import steering_records

from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.records import Record, load_records
from lineament.report.page import render, write_report

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1200,1000"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed: make ci-deps")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, finished_of_three: Path) -> webdriver.Chrome:
    """The report, freshly opened and drawn, with empty logs before it."""
    size(browser, 1200)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get((finished_of_three / "report.html").as_uri())
    WebDriverWait(browser, 60).until(drawn)
    return browser


def drawn(browser: webdriver.Chrome) -> bool:
    """Whether the page has drawn all its figures."""
    return bool(browser.execute_script("return document.documentElement.dataset.drawn === 'true'"))


def size(browser: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def marks(browser: webdriver.Chrome) -> list[int]:
    """Number of drawn marks (points, lines, bars, cells) with an extent, for each figure."""
    script = """
        return [...document.querySelectorAll('.plot')].map((plot) =>
          [...plot.querySelectorAll('.pt, [data-key] > path')].filter((mark) => {
            const box = mark.getBoundingClientRect();
            return box.width + box.height > 0;
          }).length);"""
    found: list[int] = browser.execute_script(script)
    return found


def test_it_draws_every_figure_with_marks(page: webdriver.Chrome) -> None:
    counts = marks(page)
    assert len(counts) >= 5
    assert min(counts) >= 3, counts


def test_no_console_message_and_no_request_leaves_the_file(page: webdriver.Chrome) -> None:
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked, "the performance log recorded nothing"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_verdicts_are_those_of_claims_json(page: webdriver.Chrome, finished_of_three: Path) -> None:
    rows = page.find_elements(By.CSS_SELECTOR, "tr[data-claim]")
    shown = {row.get_attribute("data-claim"): row.find_element(By.CSS_SELECTOR, ".badge") for row in rows}
    claims = read_json(finished_of_three / "claims.json")["claims"]
    assert set(shown) == {claim["id"] for claim in claims}
    for claim in claims:
        assert claim["verdict"] in (shown[claim["id"]].get_attribute("class") or "").split()


def test_verdicts_come_first_and_every_figure_names_its_records(
    page: webdriver.Chrome, finished_of_three: Path
) -> None:
    sections = page.find_elements(By.CSS_SELECTOR, "main section")
    assert sections[0].get_attribute("id") == "verdicts"
    files = {f"records/{record.name}.json" for record in load_records(finished_of_three / "records")}
    for figure in page.find_elements(By.CSS_SELECTOR, "figure"):
        named = figure.find_element(By.CSS_SELECTOR, ".source").text
        assert any(file in named for file in files)
        assert figure.find_elements(By.CSS_SELECTOR, "figcaption, h3")


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("records", [search_records, steering_records])
def test_pictures_of_other_measurements_draw(
    browser: webdriver.Chrome, tmp_path: Path, width: int, records: Callable[[], list[Record]]
) -> None:
    for record in records():
        record.save(tmp_path / "records")
    size(browser, width)
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get(write_report(tmp_path).as_uri())
    WebDriverWait(browser, 60).until(drawn)
    counts = marks(browser)
    assert len(counts) == 5
    assert min(counts) >= 3, counts
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert cut_off(browser) == [], "words of a picture are cut off"


def cut_off(browser: webdriver.Chrome) -> list[str]:
    """Words of pictures that reach over the edge of their panel."""
    script = """
        return [...document.querySelectorAll('.panel')].flatMap((panel) => {
          const room = panel.getBoundingClientRect();
          return [...panel.querySelectorAll('text')].filter((text) => {
            const box = text.getBoundingClientRect();
            const over = [room.left - box.left, box.right - room.right, room.top - box.top, box.bottom - room.bottom];
            return box.width && Math.max(...over) > 1;
          }).map((text) => text.textContent);
        });"""
    found: list[str] = browser.execute_script(script)
    return found


def test_no_words_of_a_picture_are_cut_off(page: webdriver.Chrome) -> None:
    assert len(page.find_elements(By.CSS_SELECTOR, ".panel text")) > 50
    assert cut_off(page) == []


def test_without_scripts_texts_tables_and_pictures_are_there(
    browser: webdriver.Chrome, finished_of_three: Path
) -> None:
    def boxes(selector: str) -> list[tuple[float, float]]:
        root = browser.execute_cdp_cmd("DOM.getDocument", {})["root"]["nodeId"]
        found = browser.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": root, "selector": selector})["nodeIds"]
        sizes = []
        for node in found:
            with contextlib.suppress(WebDriverException):  # what is not shown has no box
                model = browser.execute_cdp_cmd("DOM.getBoxModel", {"nodeId": node})["model"]
                sizes.append((model["width"], model["height"]))
        return sizes

    size(browser, 1200)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((finished_of_three / "report.html").as_uri())
        panels = boxes(".panel")
        assert len(panels) >= 8
        assert min(min(box) for box in panels) > 80
        assert len(boxes(".panel .pt")) > 50
        assert len(boxes("main table")) >= 5
        assert len(boxes("noscript p")) == 1
        assert boxes(".save button") == boxes("details.more") == [], "what needs scripts is shown without them"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_value_under_the_pointer_is_that_of_the_data_table(page: webdriver.Chrome) -> None:
    point = page.find_element(By.CSS_SELECTOR, "[id$=capture] [data-key=prefix] .pt")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    assert not page.find_element(By.CSS_SELECTOR, ".tip").is_displayed()
    ActionChains(page).move_to_element_with_offset(point, 2, 2).perform()
    tip = WebDriverWait(page, 20).until(lambda b: b.find_element(By.CSS_SELECTOR, ".tip:not([hidden])"))
    name, place, *_ = tip.text.splitlines()
    assert name == "first k updates"
    rows = page.execute_script(
        "return [...arguments[0].closest('figure').querySelectorAll('tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))",
        point,
    )
    told = {f"{row[2]}: {row[3]} {row[4]}" for row in rows if row[1] == name}
    assert place in told


def test_pictures_are_saved_as_they_are_shown(page: webdriver.Chrome, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    figure = page.find_element(By.XPATH, "//figure[.//details[@class='more']]")
    hidden = figure.find_element(By.CSS_SELECTOR, "button[aria-pressed='true']")
    asked = figure.find_element(By.CSS_SELECTOR, "details.more button")
    for button in (hidden, asked, *figure.find_elements(By.CSS_SELECTOR, "button[data-save]")):
        page.execute_script("arguments[0].click()", button)
    WebDriverWait(page, 60).until(lambda _: {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png"})
    (svg,), (png,) = (list(tmp_path.glob(f"*.{kind}")) for kind in ("svg", "png"))
    text = svg.read_text()
    said = [element.text for element in ET.fromstring(text).iter()]
    assert figure.find_element(By.CSS_SELECTOR, "h3").text in said
    label = "return arguments[0].textContent.trim()"
    assert page.execute_script(label, hidden) not in said
    assert page.execute_script(label, asked) in said
    assert "var(" not in text
    assert "data-tip" not in text
    assert png.read_bytes().startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert (str(width // 2), str(height // 2)) == (ET.fromstring(text).get("width"), ET.fromstring(text).get("height"))
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_previews_of_a_link_say_what_was_found(page: webdriver.Chrome) -> None:
    meta = {
        element.get_attribute("name") or element.get_attribute("property"): element.get_attribute("content")
        for element in page.find_elements(By.CSS_SELECTOR, "head meta[name], head meta[property]")
    }
    assert meta["og:title"] == page.title
    assert meta["og:description"] == meta["description"]
    found = page.find_elements(By.CSS_SELECTOR, ".story li") or page.find_elements(By.CSS_SELECTOR, ".lead")
    assert meta["description"] == found[0].text.replace("\n", " ").strip()


def test_definitions_open_on_demand_and_cover_every_quantity(page: webdriver.Chrome, finished_of_three: Path) -> None:
    for summary in page.find_elements(By.CSS_SELECTOR, "details.definitions > summary"):
        page.execute_script("arguments[0].click()", summary)
    text = " ".join(d.text for d in page.find_elements(By.CSS_SELECTOR, "details.definitions[open]"))
    for record in load_records(finished_of_three / "records"):
        for quantity in {figure.name for figure in record.quantities}:
            assert record.definitions[quantity][:40] in text, quantity


def test_a_figure_s_table_holds_the_record_s_value(page: webdriver.Chrome, finished_of_three: Path) -> None:
    values = [
        record.value("capture", basis="prefix", rank=5, definition="whole", at="T", space_of="parameters")
        for record in load_records(finished_of_three / "records")
        if record.measurement == "basis_capture"
    ]
    mean = sum(v for v in values if v is not None) / len(values)
    text = page.execute_script(
        "return [...document.querySelectorAll('figure table')].map(t => t.textContent).join(' ')"
    )
    assert f"{mean:.2f}" in text


def test_the_legend_hides_and_shows_a_series(page: webdriver.Chrome) -> None:
    button = page.find_element(By.CSS_SELECTOR, ".legend button[aria-pressed='true']")
    before = sum(marks(page))
    page.execute_script("arguments[0].click()", button)
    WebDriverWait(page, 20).until(lambda _: sum(marks(page)) < before)
    assert button.get_attribute("aria-pressed") == "false"
    page.execute_script("arguments[0].click()", button)
    WebDriverWait(page, 20).until(lambda _: sum(marks(page)) == before)


def test_hidden_series_wait_behind_a_disclosure(page: webdriver.Chrome) -> None:
    folded = page.find_elements(By.CSS_SELECTOR, "details.more button")
    assert folded
    assert {button.get_attribute("aria-pressed") for button in folded} == {"false"}
    assert not page.find_elements(By.CSS_SELECTOR, ".legend > .group button[aria-pressed='false']")
    before = sum(marks(page))
    page.execute_script("arguments[0].click()", folded[0])
    WebDriverWait(page, 20).until(lambda _: sum(marks(page)) > before)


@pytest.mark.parametrize(("width", "above"), [(1200, "legend"), (390, "plot")])
def test_the_plot_comes_before_its_legend_on_a_phone(page: webdriver.Chrome, width: int, above: str) -> None:
    size(page, width)
    tops = page.execute_script(
        "return ['legend', 'plot'].map(c => [document.querySelector('.drawn .' + c).getBoundingClientRect().top, c])"
    )
    assert min(tops)[1] == above


def test_it_fits_a_phone(page: webdriver.Chrome) -> None:
    size(page, 390)
    page.refresh()
    WebDriverWait(page, 60).until(drawn)
    assert page.execute_script("return document.scrollingElement.scrollWidth") <= 390
    assert min(marks(page)) >= 3
    lines = page.execute_script(
        "return [...document.querySelectorAll('.scroll td .num')].map(e => e.getClientRects().length)"
    )
    assert max(lines) == 1, "an interval is broken over lines, or no table marks its intervals"
    smallest = page.execute_script(
        "const zoom = e => { const m = e.getScreenCTM?.(); return m ? Math.hypot(m.b, m.d) : 1; };"
        "return Math.min(...[...document.querySelectorAll('main p, main td, .plot text')]"
        ".filter(e => e.textContent.trim() && e.getClientRects().length)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * zoom(e)))"
    )
    assert smallest >= 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(page: webdriver.Chrome, scheme: str) -> None:
    features: dict[str, Any] = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    colors = page.execute_script(
        "const s = getComputedStyle(document.body);"
        "return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).map(Number))"
    )
    ink, paper = (luminance(color[:3]) for color in colors)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (ink < paper) == (scheme == "light")
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 7  # WCAG 2.2, AAA for text


def luminance(color: list[int]) -> float:
    """Relative luminance of an sRGB colour, WCAG 2.2."""
    parts = [c / 255 for c in color]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints(page: webdriver.Chrome) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    content = base64.b64decode(printed["data"])
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_print_is_light_fits_the_paper_and_leaves_buttons_out(page: webdriver.Chrome, scheme: str) -> None:
    assert printed_faults(page, scheme) == []


def printed_faults(browser: webdriver.Chrome, scheme: str) -> list[str]:
    """What is wrong with the open page on paper: its colours, its width, what is of no use there."""
    size(browser, 700)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    script = """
        const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
        const over = (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('svg');
        const wide = shown('main *').filter(over);
        const style = getComputedStyle(document.body);
        const ink = getComputedStyle(document.querySelector('.panel')).fill;
        return [
          ...shown('.save, nav, .skip, .tip').map((e) => `${e.className || e.localName} is printed`),
          ...wide.map((e) => `${e.localName}.${e.className} is wider than the paper: ${e.textContent.slice(0, 40)}`),
          ...(style.backgroundColor === 'rgb(255, 255, 255)' && ink === 'rgb(0, 0, 0)' ? [] : ['it is not light']),
        ];"""
    try:
        found: list[str] = browser.execute_script(script)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    return found


def test_the_page_is_one_file_and_the_same_bytes_each_time(finished_of_three: Path) -> None:
    text = (finished_of_three / "report.html").read_text()
    assert "src=" not in text.split("<script>")[0]
    assert render(finished_of_three) == render(finished_of_three) == text


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    with pytest.raises(InputError, match="no records"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
