"""The page of a sweep: what it says without a browser, and that it draws, fits a phone and asks the network nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from sweep_records import FAILURE, N_SEEDS, VARY, base, write_sweep
from test_report import browser, drawn, marks, printed_faults, size

from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.files.writing import write_json
from lineament.report.series import data_table
from lineament.report.sweep.claim_grid import ClaimGrid, claim_grids, settings_words
from lineament.report.sweep.differences import difference_tables
from lineament.report.sweep.page import MAX_COLUMNS, MAX_FAILURES, MAX_ROWS, render_sweep, write_sweep_report
from lineament.report.sweep.pictures import MAX_SERIES, SERIES_SHOWN, claim_pictures
from lineament.runs.sweep.results import write_results
from lineament.settings.keys import KEYS

__all__ = ["browser"]  # the fixture of the run's report
MEANINGS = {name: key.meaning for name, key in KEYS.items()}
FIRST, LAST = "optimizer=sgd,lr=0.001", "optimizer=adamw,lr=0.1"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its report; the records are gone, for the page must do without them."""
    path = tmp_path_factory.mktemp("sweeps") / "sweep"
    write_results(write_sweep(path))
    shutil.rmtree(path / "cells")
    write_sweep_report(path, MEANINGS)
    return path


@pytest.fixture
def body(sweep: Path) -> dict[str, Any]:
    return read_json(sweep / "sweep.json")


@pytest.fixture
def drift(body: dict[str, Any]) -> ClaimGrid:
    return next(grid for grid in claim_grids(body) if grid.claim == "basis_drifts")


def rendered(body: dict[str, Any], path: Path) -> str:
    """The page of another sweep.json, without its scripts."""
    write_json(path / "sweep.json", body)
    return visible(render_sweep(path, MEANINGS))


def visible(page: str) -> str:
    """What a reader sees of a page, with one space between words."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def many(body: dict[str, Any], n: int) -> dict[str, Any]:
    """The sweep with `n` step sizes: the first optimizer's cells are copies of the first cell."""
    rates = [0.001 * (i + 1) for i in range(n)]
    cells = [
        {**body["cells"][0], "name": f"{name}-{rate}", "values": {"recovery.optimizer": name, "recovery.lr": rate}}
        for name in VARY["recovery.optimizer"]
        for rate in rates
    ]
    vary = [body["vary"][0], {"key": "recovery.lr", "values": rates}]
    return {**body, "vary": vary, "cells": cells, "differences": []}


def test_the_head_says_what_was_varied_and_how_far_it_is(sweep: Path) -> None:
    text = visible((sweep / "report.html").read_text())
    assert "synthetic transformer 2x64: optimizer and lr varied" in text
    assert "6 cells: optimizer (2) × lr (3)" in text
    assert "14 of 18 done, 1 failed, 3 not finished" in text
    assert "recovery.lr 0.001; 0.01; 0.1 Step size of the recovery" in text


def test_a_failed_job_is_a_callout_with_its_message_as_text(sweep: Path) -> None:
    page = (sweep / "report.html").read_text()
    assert f"Failed: {FIRST}, seed 2." in visible(page)
    assert "not recovered after 60 steps &lt;b&gt;" in page
    assert FAILURE not in page


def test_beyond_some_failures_only_their_number_is_given(body: dict[str, Any], tmp_path: Path) -> None:
    body["failed"] = [{"cell": FIRST, "seed": seed, "message": "no"} for seed in range(MAX_FAILURES + 5)]
    text = rendered(body, tmp_path)
    assert text.count("Failed:") == MAX_FAILURES
    assert "5 more jobs failed" in text


def test_cells_without_a_recovery_are_named_with_the_reason(body: dict[str, Any], tmp_path: Path) -> None:
    reasons = [{"task": "sort", "seed": seed, "reason": "never reached 0.9"} for seed in (0, 1)]
    body["cells"][0]["not_recovered"] = reasons
    assert f"{FIRST}, seeds 0, 1: never reached 0.9" in rendered(body, tmp_path)


def test_few_cells_are_columns_and_many_are_rows(body: dict[str, Any], tmp_path: Path) -> None:
    assert "claims down, cells across" in rendered(many(body, MAX_COLUMNS // 2), tmp_path)
    assert "cells down, claims across" in rendered(many(body, MAX_COLUMNS // 2 + 1), tmp_path)
    assert f"{2 * MAX_ROWS - MAX_ROWS} more cells are in sweep.json" in rendered(many(body, MAX_ROWS), tmp_path)


def test_every_claim_shows_its_rule_and_definition(sweep: Path, body: dict[str, Any]) -> None:
    text = visible((sweep / "report.html").read_text())
    for claim in body["cells"][1]["claims"]:
        assert f"rule {claim['rule']}" in text
        assert claim["definition"] in text
        assert f"unit {claim['unit']}" in text
    assert "cells/optimizer=adamw,lr=0.1/records 0 none" in text


def test_a_cell_s_figure_is_in_the_data_table_of_its_picture(drift: ClaimGrid) -> None:
    (picture,) = claim_pictures(drift)
    rows = data_table(picture).rows
    assert ("along lr", "optimizer=sgd", "lr 0.1", "0.33", "[0.26, 0.4]", "3", "") in rows
    assert ("along optimizer", "lr=0.1", "sgd", "0.33", "[0.26, 0.4]", "3", "") in rows
    assert any(row[:4] == ("along lr", "null, optimizer=sgd", "lr 0.1", "0.09") for row in rows)
    assert picture.title == "From 0.205 at optimizer=sgd, lr=0.001 to 0.37 at optimizer=adamw, lr=0.01"


def test_numbers_stand_on_an_axis_and_names_do_not(drift: ClaimGrid) -> None:
    optimizers, rates = claim_pictures(drift)[0].panels
    assert tuple(optimizers.names) == VARY["recovery.optimizer"]
    assert rates.x_log
    assert tuple(rates.ticks) == VARY["recovery.lr"]


def test_a_null_that_is_the_same_everywhere_is_one_line(body: dict[str, Any]) -> None:
    for cell in body["cells"]:
        for claim in cell["claims"]:
            claim["null"] = 0.0
    grid = next(grid for grid in claim_grids(body) if grid.claim == "drift_follows_loss")
    for panel in claim_pictures(grid)[0].panels:
        (line,) = [line for line in panel.lines if line.key == "null"]
        assert line.label == "null (0)"
        assert {point.mean for point in line.points} == {0.0}


def test_the_paper_s_figure_is_drawn_where_there_is_one(body: dict[str, Any]) -> None:
    for cell in body["cells"]:
        for claim in cell["claims"]:
            claim["paper"] = 0.77 if claim["id"] == "basis_drifts" else None
    grid = next(grid for grid in claim_grids(body) if grid.claim == "basis_drifts")
    (picture,) = claim_pictures(grid)
    assert all(any(line.label == "paper (0.77)" for line in panel.lines) for panel in picture.panels)
    assert "Dotted: the paper's value" in picture.caption


def test_many_series_wait_and_more_are_said_not_to_be_drawn(body: dict[str, Any]) -> None:
    grid = next(grid for grid in claim_grids(many(body, MAX_SERIES + 9)) if grid.claim == "gradient_low_rank")
    (picture,) = claim_pictures(grid)
    series = [line for line in picture.panels[0].lines if line.group == "along optimizer"]
    assert len(series) == MAX_SERIES
    assert [line.shown for line in series] == [True] * SERIES_SHOWN + [False] * (MAX_SERIES - SERIES_SHOWN)
    assert series[0].label == "lr=0.001"
    assert series[SERIES_SHOWN - 1].label == "lr=0.033"
    assert picture.notes == [
        "Along recovery.optimizer, 9 more series are not drawn; every cell is in claims.parquet and sweep.json."
    ]


def test_differences_are_tabled_for_each_key(drift: ClaimGrid, body: dict[str, Any]) -> None:
    optimizers, rates = difference_tables(drift, body["differences"])
    assert optimizers.caption == "What recovery.optimizer changes (fraction, paired by seed)"
    assert optimizers.rows[0][:3] == ("adamw minus sgd", "0.001", "0.1")
    assert ("0.1 minus 0.001", "sgd", "0.11", "(two seeds: 0.1 and 0.12)", "2") in rates.rows
    assert "Null: 0" in rates.note
    assert "About one in twenty of the 2 intervals" in rates.note


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    write_results(write_sweep(tmp_path / "sweep", base(seeds=1)))
    text = visible(render_sweep(tmp_path / "sweep", MEANINGS))
    assert "0 (one seed: no interval)" in text
    assert "adamw minus sgd 0.001 0.1 1 adamw minus sgd 0.01 0.1 1 One seed: no interval." in text
    assert "intervals stands alone" not in text


def test_two_tasks_are_two_sections(body: dict[str, Any], tmp_path: Path) -> None:
    for cell in body["cells"]:
        cell["claims"] += [{**claim, "task": "copy of it"} for claim in cell["claims"]]
    page = rendered(body, tmp_path)
    assert "The plane of gradients goes stale during the recovery (sort)" in page
    assert "The plane of gradients goes stale during the recovery (copy of it)" in page
    ids = re.findall(r'\bid="([^"]+)"', render_sweep(tmp_path, MEANINGS))
    assert len(ids) == len(set(ids))


def test_a_sweep_without_any_claim_says_so(body: dict[str, Any], tmp_path: Path) -> None:
    for cell in body["cells"]:
        cell |= {"claims": [], "n_records": 0, "model": None, "n_params": None, "config_hashes": []}
    body |= {"models": [], "differences": []}
    text = rendered(body, tmp_path)
    assert "No claim could be judged yet" in text
    assert "no model yet: optimizer and lr varied" in text


def test_keys_that_end_alike_keep_their_whole_names() -> None:
    values = {"recovery.lr": 0.1, "training.lr": 0.2, "lora.targets": ("q", "v")}
    assert settings_words(values, list(values)) == "recovery.lr=0.1, training.lr=0.2, targets=q,v"


def test_the_page_is_the_same_bytes_each_time_and_one_file(sweep: Path) -> None:
    text = (sweep / "report.html").read_text()
    assert "src=" not in text.split("<script>")[0]
    assert render_sweep(sweep, MEANINGS) == text


def test_a_folder_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no sweep\.json"):
        write_sweep_report(tmp_path, MEANINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_and_fits_with_no_network(
    browser: webdriver.Chrome, sweep: Path, body: dict[str, Any], width: int, scheme: str
) -> None:
    features: dict[str, Any] = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    size(browser, width)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")  # type: ignore[no-untyped-call]
    browser.get((sweep / "report.html").as_uri())
    WebDriverWait(browser, 60).until(drawn)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    counts = marks(browser)
    assert len(counts) == 3
    assert min(counts) >= 2 * 5, "each panel shows every measured cell"
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    badges = browser.find_elements(By.CSS_SELECTOR, ".matrix .badge")
    assert len(badges) == sum(len(cell["claims"]) for cell in body["cells"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_many_cells_fit_the_paper(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", base(vary={**VARY, "lora.rank": (2, 4)}))
    assert len(write_results(folder)["cells"]) == MAX_COLUMNS
    browser.get(write_sweep_report(folder.path, MEANINGS).as_uri())
    WebDriverWait(browser, 60).until(drawn)
    assert printed_faults(browser, "dark") == []


def test_the_legend_hides_a_series_with_its_null(browser: webdriver.Chrome, sweep: Path) -> None:
    size(browser, 1200)
    browser.get((sweep / "report.html").as_uri())
    WebDriverWait(browser, 60).until(drawn)
    before = sum(marks(browser))
    chosen = "section[data-claim='basis_drifts'] button[data-key='recovery.lr-0']"
    button = browser.find_element(By.CSS_SELECTOR, chosen)
    browser.execute_script("arguments[0].click()", button)
    WebDriverWait(browser, 20).until(lambda _: sum(marks(browser)) <= before - 2 * N_SEEDS)
    assert button.get_attribute("aria-pressed") == "false"


def test_blind_values_stand_beside_what_was_measured(body: dict[str, Any]) -> None:
    for place, cell in enumerate(body["cells"]):
        for claim in cell["claims"]:
            claim["blind"] = 0.1 + 0.05 * place
    grid = next(grid for grid in claim_grids(body) if grid.claim == "basis_drifts")
    (picture,) = claim_pictures(grid)
    blind = [line for panel in picture.panels for line in panel.lines if line.style.symbol == "triangle-left"]
    assert {point.mean for line in blind for point in line.points} == {claim["blind"] for claim in grid.claims.values()}
    assert "Triangles: what the same optimizer gives" in picture.caption
    for cell in body["cells"]:
        for claim in cell["claims"]:
            claim["blind"] = 0.25
    (same,) = claim_pictures(next(grid for grid in claim_grids(body) if grid.claim == "basis_drifts"))
    assert any(line.label == "blind (0.25)" for panel in same.panels for line in panel.lines)
    assert "Long dashes: what the same optimizer gives" in same.caption
