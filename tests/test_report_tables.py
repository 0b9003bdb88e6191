"""What tables of a report say and leave out: digits, missing intervals, undefined rows, marks of what scrolls."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from test_report_recording import recordings

from lineament.claims.intervals import over_seeds
from lineament.claims.registry import evaluate_claims
from lineament.records import Quantity
from lineament.report.estimates import Estimate, estimate, estimate_positive, interval_text, range_text, with_digits
from lineament.report.page import render_records
from lineament.report.series import Table
from lineament.report.tidy import tidied
from lineament.report.verdicts import undecided_for_all

ONE = "one seed: no interval"


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.2432, 0.1802, 0.3178, "0.24"),  # half-width 0.069: one digit
        (0.4868, 0.3606, 0.6294, "0.49"),  # 0.134: two digits, 0.13
        (0.9556, 0.9331, 0.9788, "0.956"),  # 0.023: two digits, 0.023
        (0.3009, 0.2027, 0.3993, "0.3"),  # 0.098 rounds up to 0.10
        (0.98217, 0.98215, 0.98219, "0.982"),  # never more than three
        (0.0568, -0.0993, 0.213, "0.057"),  # never fewer than two
        (157.3, 84.0, 290.0, "160"),
        (157.3, 156.0, 158.0, "157"),
        (12345.0, 12000.0, 13000.0, "12,345"),
        (0.0, -1.0, 1.0, "0"),
        (0.12345, None, None, "0.123"),
        (0.5, 0.5, 0.5, "0.5"),
        (1.0, 1.0, math.inf, "1"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_leaves_certain(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    assert with_digits(value, low, high) == text
    assert with_digits(-value, low, high) == (f"-{text}" if value else text)


def test_mean_and_ends_of_an_interval_have_the_same_last_digit() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        mean, half = generator.uniform(0.2, 0.8), 10 ** generator.uniform(-1.9, -0.8)
        low, high = mean - half, mean + half
        texts = [with_digits(mean, low, high), *interval_text(low, high).strip("[]").split(", ")]
        for shown, true in zip(texts, (mean, low, high), strict=True):
            assert abs(float(shown) - true) <= max(0.05 * half, abs(true) * 0.05 * 0.1**1) + 0.2 * half


def quantities(*values: float, unit: str = "steps") -> list[Quantity]:
    return [Quantity("size", value, unit) for value in values]


def test_what_cannot_be_negative_has_no_interval_below_0() -> None:
    found = estimate_positive(quantities(2.0, 30.0, 100.0))
    plain = estimate(quantities(2.0, 30.0, 100.0), fraction=False)
    expected = over_seeds([2.0, 30.0, 100.0], log=True)
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert found.low is not None
    assert found.low > 0
    assert plain.low is not None
    assert plain.low < 0


def test_a_seed_of_exactly_0_is_kept_and_the_interval_is_cut_at_0() -> None:
    found = estimate_positive(quantities(0.0, 1.0, 5.0))
    assert found.mean == pytest.approx(2.0)
    assert found.low == 0.0
    undefined = Quantity("size", None, "steps", reason="too short")
    partial = estimate_positive([*quantities(2.0, 3.0, 4.0), undefined])
    assert partial.reason == "1 of 4 seeds: too short"
    assert estimate_positive([undefined]).mean is None


def test_a_range_over_seeds_names_the_lowest_and_the_highest() -> None:
    assert range_text(quantities(0.5, 0.1, 0.9)) == "0.5 (0.1 to 0.9)"
    assert range_text(quantities(1.0, 1.0)) == "1"
    assert range_text(quantities(1.0, 1.0, 0.99999)) == "1"
    assert range_text(quantities(0.25)) == "0.25"
    assert range_text([Quantity("size", None, "steps", reason="lost")]) == "undefined: lost"


def test_a_missing_interval_is_said_once_in_a_table() -> None:
    rows = [("a", f"0.5 {ONE}", ONE), ("b", f"0.25 ({ONE})", ONE)]
    table = tidied(Table("caption", ("what", "value", "interval"), rows, "Note."))
    assert list(table.columns) == ["what", "value"]  # nothing is left of the third
    assert [list(row) for row in table.rows] == [["a", "0.5"], ["b", "0.25"]]
    assert table.note == "One seed: no interval. Note."
    alone = Table("caption", ("what", "value"), [("a", f"0.5 {ONE}"), ("b", "0.25 [0.2, 0.3]")])
    assert tidied(alone).rows[0][1] == f"0.5 {ONE}"


def test_recordings_are_not_called_seeds() -> None:
    rows = [("a", "0.5", "one recording: no interval"), ("b", "0.2", "one recording: no interval")]
    assert tidied(Table("c", ("what", "value", "interval"), rows), "recordings").note == "One recording: no interval."
    text = re.sub(r"<script.*?</script>", "", render_records(recordings(1), None), flags=re.DOTALL)
    assert "one seed" not in text


def test_rows_that_are_undefined_throughout_are_left_out_with_their_reason() -> None:
    rows = [
        ("a", "10", "0.5 [0.4, 0.6]", "undefined: too short"),
        ("b", "10", "undefined: no task", "undefined"),
        ("c", "10", "0.2 [0.1, 0.3]", "0.1 [0, 0.2]"),
    ]
    table = tidied(Table("caption", ("basis", "rank", "whole", "rest"), rows, "Note."))
    assert [row[0] for row in table.rows] == ["a", "c"]
    assert table.note == "Left out, undefined: b (no task). Note."
    assert tidied(Table("c", ("x", "y"), [("a", "undefined: no task")])).rows == [["a", "undefined: no task"]]


def test_a_reason_that_the_note_has_is_not_said_again_and_many_rows_are_counted() -> None:
    rows = [("z", "0.5 [0.4, 0.6]"), *((str(i), "undefined: no task") for i in range(5))]
    table = tidied(Table("caption", ("basis", "whole"), rows, "Undefined: no task."))
    assert table.note == "Left out, undefined: 5 rows. Undefined: no task."


def test_where_every_claim_has_one_seed_it_is_said_once() -> None:
    from geometry_records import geometry_records

    claims = evaluate_claims(geometry_records(n_seeds=1), 10)
    said = undecided_for_all(claims)
    assert said == "One seed: no interval, so nothing can be decided. Run at least three seeds, better five."
    page = render_records(geometry_records(n_seeds=1), claims)
    assert page.count("nothing can be decided") == 1
    assert undecided_for_all(evaluate_claims(geometry_records(), 10)) is None
    assert 'data-label="Interval"' in render_records(geometry_records(), evaluate_claims(geometry_records(), 10))
    assert 'data-label="Interval"' not in page


def test_every_section_has_a_link_to_itself() -> None:
    page = render_records(recordings(2), None)
    anchors = re.findall(r'<a class="anchor" href="#([^"]+)" aria-label="Link to ([^"]+)">', page)
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert [name for name, _ in anchors] == sections
    assert all(label for _, label in anchors)


def test_every_table_that_may_be_wider_than_the_page_stands_in_a_box_that_scrolls_with_a_mark() -> None:
    page = re.sub(r"<script.*?</script>", "", render_records(recordings(2), None), flags=re.DOTALL)
    boxes = re.findall(r'<div class="scroll[^"]*" tabindex="0" role="region" aria-label="([^"]+)">\s*<table', page)
    assert len(boxes) == page.count("<table")
    (style,) = re.findall(r"\n\.scroll \{([^}]*)\}", page)
    assert "overflow-x: auto" in style
    assert "local" in style
    assert "var(--edge)" in style
    assert page.count("--edge:") == 2  # light and dark


def test_hovering_says_no_missing_interval() -> None:
    assert Estimate(0.5, n_seeds=1).hover == "0.5"
    assert Estimate(0.5, 0.4, 0.6, 3).hover == "0.5 [0.4, 0.6]"
