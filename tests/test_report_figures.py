"""What a report draws, tables and says, from hand-made records and from those of a real run; no browser."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn_svg
import numpy as np
import pytest
from rich.console import Console

from lineament.claims.claims_file import read_claims
from lineament.claims.intervals import Interval, over_seeds
from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import Bounds, Claim, Condition, Verdict
from lineament.commands.terminal import BrokenName
from lineament.commands.verdict_tables import claims_table
from lineament.measurements.families import STATIC
from lineament.records import Label, Quantity, Record, load_records
from lineament.report.estimates import number
from lineament.report.page import render, render_records
from lineament.report.sections import registry
from lineament.report.sections.bases import BASES, is_static
from lineament.report.sections.basis_capture.captures import best_statics, capture_picture
from lineament.report.sections.basis_capture.tables import later_table
from lineament.report.sections.basis_drift import half_life_text, window_texts
from lineament.report.sections.gradient_rank import spectrum_picture
from lineament.report.sections.registry import SECTIONS
from lineament.report.sections.section import Section, definitions, each
from lineament.report.series import Table
from lineament.report.verdicts import meaning, needed, verdict_row


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.anchor or section.measurement)
def test_a_section_of_records_that_hold_nothing_has_no_pictures(section: Section) -> None:
    sources = made(section.measurement, [], [])
    assert [picture for picture in section.pictures(sources, 10) if picture] == []
    assert all(table is None or table.columns for table in section.tables(sources, 10))
    assert definitions(section, sources) == []


def test_a_measurement_without_a_section_gets_a_table_of_its_quantities(tmp_path: Path) -> None:
    for record in made("new_thing", *([Quantity("size", size, "steps")] for size in (2.0, 3.0, 4.0))):
        record.save(tmp_path / "records")
    page = render(tmp_path)
    assert "<h2>new thing <a" in page
    assert '<th scope="row">size</th><td></td><td>3 <span class="num">[' in page


def test_a_registered_section_shows_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def size_table(sources: Sequence[Record]) -> Table:
        return Table("Sizes", ("seed", "size"), [(str(r.seed), str(r.value("size"))) for r in sources])

    section = Section("new_thing", "A new thing", "how large it is", tables=each(size_table), nulls={"size": "zero"})
    monkeypatch.setattr(registry, "SECTIONS", (*SECTIONS, section))
    for record in made("new_thing", [Quantity("size", 2.0, "steps")]):
        record.save(tmp_path / "records")
    page = render(tmp_path)
    for text in ("<h2>A new thing <a", "how large it is", ">Sizes</h3>", "null: zero"):
        assert text in page


def test_the_legend_calls_fixed_what_the_claims_call_static() -> None:
    assert {name for name in BASES if is_static(name)} == set(STATIC)


def captures_of(run: Path) -> list[Record]:
    """The run's records of captures, which their section is made from."""
    return [record for record in load_records(run / "records") if record.measurement == "basis_capture"]


def test_only_what_the_verdicts_compare_has_bars_in_the_capture_picture(finished_of_three: Path) -> None:
    records = captures_of(finished_of_three)
    picture = capture_picture(records, 5)
    assert picture is not None
    barred = {line.key for panel in picture.panels for line in panel.lines if line.bars and line.mode == "line"}
    static = best_statics(records, 5)[0]
    assert barred == {"prefix", static, "null_noise_prefix"}
    assert drawn_svg.barred(picture) == barred
    assert any("[" in text for text in drawn_svg.hints(drawn_svg.one_series(picture, "random")))


ONE_PART = tuple(id for id, rule in CLAIMS.items() if len(rule.requirements) == 1)


def claim(id: str, verdict: Verdict, *ends: tuple[float, float]) -> Claim:
    """A claim as its rule makes it of three seeds; `ends` are the intervals of its conditions, in their order."""
    intervals = [Interval((low + high) / 2, low, high, 3) for low, high in ends]
    parts = zip(CLAIMS[id].requirements, intervals, strict=True)
    conditions = tuple(Condition(p.name, found, p.bounds, p.bounds.hold_for(found)) for p, found in parts)
    own = intervals[0]
    head = {"id": id, "task": "sort", "space": "full", "rank": None, "definition": "whole", "unit": "fraction"}
    return Claim(
        **head, paper=None, measured=own.mean, low=own.low, high=own.high, null=None, rule="a rule", verdict=verdict,
        conditions=conditions,
    )  # fmt: skip


def test_an_undecided_claim_names_the_condition_that_straddles() -> None:
    text = meaning(claim("prefix_captures", "inconclusive", (0.2, 0.6), (-0.1, 0.5), (0.3, 0.5)))
    undecided, holds = text.split("Holds: ")
    assert "fixed plane, 0.2 [-0.1, 0.5], reaches both sides of 0" in undecided
    assert "first updates minus a blind run's, 0.4 [0.2, 0.6], is above 0" in holds
    assert "Holds" not in meaning(claim("prefix_captures", "inconclusive", (-0.1, 0.5), (-0.5, 0.5), (-0.1, 0.3)))


def test_a_rule_with_two_bounds_names_the_one_that_is_crossed() -> None:
    assert "sides of 1.1." in meaning(claim("best_of_n_theorem", "inconclusive", (0.95, 1.2)))
    assert "sides of 0.9 and of 1.1." in meaning(claim("best_of_n_theorem", "inconclusive", (0.8, 1.2)))


def test_a_slope_that_is_small_but_not_zero_is_open_for_that_reason() -> None:
    held = [(-0.01, 0.01)] * 4
    text = meaning(claim("dimension_free", "inconclusive", (0.01, 0.03), (0.01, 0.03), *held))
    assert text.startswith("Undecided: slope at a cost of 50%, 0.02 [0.01, 0.03], does not contain 0.")
    assert "Holds: slope at a cost of 50%, 0.02 [0.01, 0.03], is above -0.05 and below 0.05;" in text


def test_a_failed_claim_names_the_condition_that_fails() -> None:
    text = meaning(claim("static_gap_is_metric", "not_supported", (0.3, 0.4), (-0.4, -0.2)))
    assert text.endswith("Fails: rescaled plane minus that of shuffled labels, -0.3 [-0.4, -0.2], is not above 0.")


def test_without_conditions_the_whole_rule_is_named() -> None:
    old = replace(claim("krylov_prefix", "inconclusive", (0.4, 0.9), (0.1, 0.2)), conditions=())
    assert "a rule" in meaning(old)
    assert "One seed" in meaning(replace(old, reason="one seed"))


def test_what_a_rule_needs_stands_with_the_figure_that_was_judged() -> None:
    found = claim("static_gap_is_metric", "not_supported", (0.3, 0.4), (-0.4, -0.2))
    first, second = needed(found)
    assert first == {"text": "closed share of the gap above 0.25", "found": "", "held": "holds"}  # shown as measured
    assert second["text"] == "rescaled plane minus that of shuffled labels above 0"
    assert (second["found"], second["held"]) == ("-0.3 [-0.4, -0.2]", "fails")
    (row,) = re.findall(r'<td data-label="Needed".*?</td>', render_records(made("steering", []), [found]))
    assert "rescaled plane minus that of shuffled labels above 0" in row
    assert "-0.3 [-0.4, -0.2]" in row


def test_what_is_needed_is_open_where_the_interval_is_on_both_sides_or_missing() -> None:
    straddling = claim("basis_drifts", "inconclusive", (0.4, 0.6))
    assert [part["held"] for part in needed(straddling)] == ["open"]
    few = Condition("share", Interval(0.4, None, None, 1), Bounds(below=0.5), None)
    missing = replace(few, interval=None)
    parts = needed(replace(straddling, conditions=(few, missing)))
    assert [(part["found"], part["held"]) for part in parts] == [("0.4", "open"), ("not measured", "open")]
    assert needed(replace(straddling, conditions=()))[0]["text"] == "a rule"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(above=0.25), "share above 0.25"),
        (Bounds(below=-0.5), "share below -0.5"),
        (Bounds(above=0.9, below=1.1), "share between 0.9 and 1.1"),
        (Bounds(contains=0.0), "an interval of share that contains 0"),
        (Bounds(above=1 / 3), "share above 0.333"),
    ],
)
def test_bounds_in_words(bounds: Bounds, words: str) -> None:
    assert bounds.words("share") == words


@pytest.mark.parametrize("width", [12, 21, 24, 80])
def test_a_long_name_breaks_after_an_underscore(width: int) -> None:
    name = BrokenName("order_matters_inside_window")
    lines = name.lines(width)
    assert "".join(line.strip() for line in lines) == name.name
    assert max(map(len, lines)) <= width
    assert all(line.endswith("_") for line in lines[:-1])
    assert (len(lines) == 1) == (width >= len(name.name))


def test_the_terminal_breaks_no_name_inside_a_word_at_80_columns() -> None:
    found = [replace(claim(id, "supported", (0.0036, 0.0064)), id=id, blind=0.1, paper=0.5) for id in ONE_PART]
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(claims_table(found))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    words = {part for id in ONE_PART for part in id.split("_")}
    shown = {part for line in lines[2:] if line.strip() for part in line.split()[0].split("_") if part}
    assert shown == words


def test_a_claim_that_this_version_does_not_know_keeps_its_identifier() -> None:
    unknown = replace(claim("krylov_prefix", "supported", (0.6, 0.9), (0.1, 0.2)), id="something_else")
    row = verdict_row(unknown)
    assert (row["title"], row["meaning"]) == ("something else", "")


def test_words_name_the_conditions_that_decide(finished_of_three: Path) -> None:
    for found in read_claims(finished_of_three):
        assert found.conditions
        expected = {"inconclusive": "Undecided: ", "not_supported": "Fails: "}.get(found.verdict)
        if expected and (found.verdict == "inconclusive" or len(found.conditions) > 1):
            assert expected in meaning(found), found.id


def test_a_band_of_cumulative_energy_has_a_lower_end_that_never_falls() -> None:
    energies = [np.array([0.9, 0.1]), np.array([0.91, 0.05, 0.04]), np.array([0.92, 0.04, 0.04])]
    energies = [np.pad(energy, (0, 3 - len(energy))) for energy in energies]
    arrays = [{"energy-broken-minibatch-true": energy} for energy in energies]
    records = [replace(r, arrays=a) for r, a in zip(made("gradient_rank", [], [], []), arrays, strict=True)]
    picture = spectrum_picture(records)
    assert picture is not None
    lows = [point.low for point in picture.panels[0].lines[0].points]
    assert lows == sorted(lows)
    shares = [np.cumsum(energy)[1] for energy in energies]
    assert over_seeds(shares, fraction=True).low < lows[0] == lows[1]


def made(measurement: str, *per_seed: list[Quantity]) -> list[Record]:
    """Records by hand, one per seed."""
    head = {"target": "sort", "problem": "synthetic", "model": "tiny", "space": "lora_factors", "n_params": 1000}
    rest: dict[str, Any] = {
        "config_hash": "abc",
        "definitions": {f.name: "made up" for figures in per_seed for f in figures},
    }
    return [
        Record(measurement=measurement, seed=seed, quantities=tuple(figures), **head, **rest)  # type: ignore[arg-type]
        for seed, figures in enumerate(per_seed)
    ]


def life(value: float | None, lag: int = 0) -> list[Quantity]:
    reason = None if value is not None else f"> {lag} (largest lag; it does not cross)"
    return [Quantity("half_life", value, "steps", labels={"from": "broken"}, reason=reason)]


def test_a_half_life_that_no_seed_reaches_is_one_clause() -> None:
    text = half_life_text(made("basis_drift", life(None, 41), life(None, 83), life(None, 35)), "broken")
    assert text.endswith("does not cross within the run in any of 3 seeds (largest lags 35, 41, 83).")
    text = half_life_text(made("basis_drift", life(None, 41)), "broken")
    assert text.endswith("does not cross within the run in 1 of 1 seed (largest lag 41).")


def test_seeds_without_half_life_are_named_beside_the_mean_of_the_others() -> None:
    noisy = [Quantity("half_life", None, "steps", labels={"from": "broken"}, reason="too little signal")]
    text = half_life_text(made("basis_drift", life(10), life(11), life(12), life(None, 83), noisy), "broken")
    assert "11 [" in text
    assert "does not cross within the run in 1 of 5 seeds (largest lag 83); 1 of 5 seeds: too little signal" in text
    assert "without" not in half_life_text(made("basis_drift", life(10), life(12)), "broken")


def test_window_overlaps_are_told_at_lags_that_all_seeds_have() -> None:
    def windows(*lags: int) -> list[Quantity]:
        return [Quantity("window_overlap", 1 / lag, "fraction", labels={"lag": lag, "width": 10}) for lag in lags]

    (text,) = window_texts(made("basis_drift", windows(40, 50, 100), windows(40, 50), windows(40, 50)))
    assert "0.025 [0.025, 0.025] at lag 40, 0.02 [0.02, 0.02] at lag 50 (two random planes: 0.01)" in text
    assert window_texts(made("basis_drift", life(10))) == []


def test_captures_where_the_loss_gap_is_closed_stand_beside_those_at_t(finished: Path) -> None:
    records = captures_of(finished)
    table = later_table(records, 5)
    assert table is not None
    row = next(row for row in table.rows if row[0] == "first k updates")
    for cell, (definition, at) in zip(
        row[1:], [(d, a) for d in ("whole", "rest") for a in ("T", "T_loss")], strict=True
    ):
        which: dict[str, Label] = {"basis": "prefix", "rank": 5, "definition": definition, "at": at}
        found = [r.value("capture", **which, space_of="parameters") for r in records]
        values = [value for value in found if value is not None]
        assert cell.startswith(number(sum(values) / len(values)) if values else "undefined")
