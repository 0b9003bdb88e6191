"""Write docs/images/report.png and capture-by-horizon.svg: the first screen of a run's report, and one of its figures.

python docs/make_screenshot.py embedded=runs/embedded

The name is the study's in docs/results.md; docs/images/made-from.json keeps it with the configuration.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from lineament import open_run
from lineament.records import load_records

FOLDER = Path(__file__).parent / "images"
PAGE, FIGURE = "report.png", "capture-by-horizon"
FLAGS = (
    "--headless=new --hide-scrollbars --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-dev-shm-usage"
)


def main(study: str, run: Path) -> None:
    """Cut the first screen out of the report at 1100 pixels, save the figure, and note what both were made from."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    try:
        metrics = {"width": 1100, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((run.resolve() / "report.html").as_uri())
        _cut(browser, "header", "#found", FOLDER / PAGE)
    finally:
        browser.quit()
    figure = open_run(run).plot(FIGURE).save(FOLDER / f"{FIGURE}.svg")
    hashes = sorted({record.config_hash for record in load_records(run / "records", with_arrays=False)})
    made = {file: {"study": study, "configuration": " ".join(hashes)} for file in (PAGE, figure.name)}
    (FOLDER / "made-from.json").write_text(json.dumps(made, indent=1) + "\n")


def _cut(browser: webdriver.Chrome, first: str, last: str, file: Path) -> None:
    """The page from the top of one element to the bottom of another."""
    script = (
        "const [a, b] = [...arguments].map(s => document.querySelector(s).getBoundingClientRect());"
        "return [a.top + scrollY, b.bottom + scrollY]"
    )
    top, bottom = browser.execute_script(script, first, last)
    clip = {"x": 0, "y": max(0, top - 12), "width": 1100, "height": bottom - top + 24, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    name, _, folder = sys.argv[1].partition("=")
    main(name, Path(folder))
