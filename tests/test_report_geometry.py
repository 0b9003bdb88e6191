"""Pictures, tables and first sentence of local geometry, and the claims' details, from records of known losses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_svg import hints, marks, parsed
from geometry_records import GRID, NAMES, Made, geometry_records, record

from lineament.claims.claims_file import write_claims
from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Claim
from lineament.commands.verdict_tables import claims_table
from lineament.records import ALL_TASKS, Quantity, Record
from lineament.report.page import render
from lineament.report.sections.local_geometry.activations import activation_picture
from lineament.report.sections.local_geometry.first import first_picture
from lineament.report.sections.local_geometry.matrix import NOT_REACHED, matrix_picture
from lineament.report.sections.local_geometry.order import order_picture
from lineament.report.sections.local_geometry.rotation import rotation_picture
from lineament.report.sections.local_geometry.section import SECTION, first_sentence
from lineament.report.sections.local_geometry.tables import pairs_table, probes_table, steering_table
from lineament.report.sections.local_geometry.windows import window_picture
from lineament.report.series import Line, Matrix, Panel, Picture, data_table, undefined_notes
from lineament.report.svg.matrices import cell_text
from lineament.report.svg.standalone import standalone

PICTURES = (window_picture, first_picture, matrix_picture, order_picture, rotation_picture, activation_picture)


def lines(picture: Picture | None, panel: int = 0) -> dict[str, Line]:
    assert picture is not None
    return {line.key: line for line in picture.panels[panel].lines}


def means(line: Line) -> list[float | None]:
    return [point.mean for point in line.points]


def changed(records: list[Record], quantity: str, value: float | None, **labels: str | float) -> list[Record]:
    """The records with another value for some figures, which have a reason where it is None."""

    def new(q: Quantity) -> Quantity:
        return replace(q, value=value, reason="made away") if q.matches(quantity, **labels) else q

    return [replace(r, quantities=tuple(map(new, r.quantities))) for r in records]


def without(records: list[Record], *names: str) -> list[Record]:
    return [replace(r, quantities=tuple(q for q in r.quantities if q.name not in names)) for r in records]


# --- claims and their details ---


def claims_of(records: list[Record]) -> dict[str, Claim]:
    return {claim.id: claim for claim in evaluate_claims(records, 10) if claim.task == ALL_TASKS}


def test_details_hold_what_stands_behind_each_claim() -> None:
    claims = claims_of(geometry_records())
    assert len(claims) == 9
    window = claims["one_direction_window"]
    assert window.null == pytest.approx(1e-5)
    assert window.details["over_predicted"]["mean"] == pytest.approx(1.0)
    assert list(window.details["by_task"].values()) == pytest.approx([0.05, 0.075, 0.1], rel=0.01)
    assert window.details["by_direction"]["random"]["mean"] == pytest.approx(0.03, rel=0.01)
    assert window.details["left_out"] == {"window": 3.0}
    order = claims["order_defect_predicted"]
    # kappa of shuffled labels is a quarter of the task's, so that the defect is four times what they predict
    assert order.null == pytest.approx(4.0, rel=0.01)
    assert set(order.details["ratio_by_eta_kappa"]) == {"0.001", "0.01", "0.1"}
    inside = claims["order_matters_inside_window"]
    assert inside.details["median_kappa"]["between"]["mean"] == pytest.approx(0.06, rel=0.01)
    assert inside.details["kappa_within_over_between"]["mean"] == pytest.approx(1 / 3)
    rotation = claims["gradient_plane_rotates"].details["at_the_largest_lag"]
    assert (rotation["lag"], rotation["plane_overlap_null"]) == (100.0, pytest.approx(0.1))
    steering = claims["weights_meet_steering"]
    assert steering.null == pytest.approx(0.2), "the larger of the nulls that decide"
    assert steering.details["nulls"]["halves"] == pytest.approx(0.02)
    additive = claims["losses_add"]
    assert additive.null == pytest.approx(0.9), "random steps add up as well, and that stands beside"
    assert claims["activations_add"].details["by_scale"]["logit, sum in factors"]["1.0"]["mean"] > 0.9


def test_one_task_alone_leaves_claims_about_pairs_open_with_the_reason() -> None:
    none = [
        Quantity(name, None, "fraction", labels={"pair": "between"}, reason="one task: there are no pairs of tasks")
        for name in ("share_additive", "share_inside_window")
    ]
    claims = claims_of([record(seed, none) for seed in range(3)])
    assert {claim.verdict for claim in claims.values()} == {"inconclusive"}
    for id in ("losses_add", "order_matters_inside_window"):
        assert "one task: there are no pairs" in str(claims[id].reason)


def test_papers_figures_stand_beside_adapters_only() -> None:
    for space, shown in (("lora_factors", {0.01, 3.0, 1.002, 1 / 3}), ("full", set())):
        found = claims_of([replace(r, space=space) for r in geometry_records()])
        assert {claim.paper for claim in found.values() if claim.paper is not None} == shown


# --- pictures ---


def test_measured_over_predicted_change_falls_from_one_and_leaves_the_band_at_the_window() -> None:
    picture = window_picture(geometry_records())
    assert picture is not None
    assert [panel.title for panel in picture.panels] == list(NAMES[:3])
    found = lines(picture)
    assert found["gradient"].points[0].mean is None, "rounding hides the smallest step"
    assert "rounding" in undefined_notes(picture)[0]
    wobbles = (0.96, 1.0, 1.04)
    expected = [np.mean([1 - 0.1 * eps / (0.05 * w) for w in wobbles]) for eps in GRID[1:]]
    assert means(found["gradient"])[1:] == pytest.approx(expected)
    assert means(found["second-order"])[1:] == pytest.approx(expected)
    assert found["window"].x[0] == pytest.approx(0.05, rel=0.01)
    band = found["tolerance"].points[0]
    assert (band.low, band.high) == pytest.approx((0.9, 1.1))
    assert "up to 0.075 of a task vector" in picture.title


def test_a_window_that_ends_below_the_smallest_step_is_said() -> None:
    records = changed(geometry_records(), "median_window", 0.0, direction="gradient")
    picture = window_picture(records)
    assert picture is not None
    assert "does not follow its gradient even at a step of 1e-05" in picture.title
    assert first_picture(changed(records, "window", 0.0)) is not None


def test_windows_and_onsets_lie_on_one_axis() -> None:
    picture = first_picture(geometry_records())
    assert picture is not None
    panel = picture.panels[0]
    assert isinstance(panel, Panel)
    assert panel.x_log
    found = lines(picture)
    assert means(found["gradient"]) == pytest.approx([0.05, 0.075, 0.1], rel=0.01)
    # 0.1 / (0.02 (1 + i + j)) step sizes of 0.002 each
    assert sorted(filter(None, means(found["onset_eps-between"]))) == pytest.approx([0.0025, 1 / 300, 0.005], rel=0.01)
    rows = [round(line.x[0]) for line in panel.lines if line.key == "median"]
    assert rows == list(range(len(panel.rows)))
    assert found["onset_eps-between"].points[0].reason == "sort, copy"
    title = picture.title.replace("\u00a0", " ")
    assert (
        title
        == "In 100 % of the pairs of tasks, order matters inside the windows of both (two batches of one task: 100 %)"
    )


def test_pairs_without_an_onset_are_counted() -> None:
    records = changed(geometry_records(), "onset", None, pair="between")
    picture = first_picture(changed(records, "onset_eps", None, pair="between"))
    assert picture is not None
    assert "Not drawn, two tasks: 9 of 9 pairs over all seeds, e.g. made away." in picture.notes
    assert "onset_eps-between" not in lines(picture)
    matrix = matrix_picture(records)
    assert matrix is not None
    assert any(NOT_REACHED in note for note in undefined_notes(matrix))


def test_the_matrix_holds_every_pair_once_in_its_data_and_twice_in_its_cells() -> None:
    picture = matrix_picture(geometry_records())
    assert picture is not None
    assert [panel.title for panel in picture.panels] == [
        "onset (step size)",
        "order defect / predicted",
        "additivity defect at 0.01",
    ]
    onset = picture.panels[0]
    assert isinstance(onset, Matrix)
    assert onset.cells[0, 1].mean == pytest.approx(2.5, rel=0.01)
    assert onset.cells[0, 0].mean == pytest.approx(10.0, rel=0.01)
    assert onset.shades[1, 2] > onset.shades[0, 1] > onset.shades[0, 0], "early onsets are dark"
    told = hints(parsed(standalone(picture)))
    assert sum(text.startswith("sort, copy\nonset (step size): 2.5") for text in told) == 2
    assert sum(text.startswith("copy, two batches\nonset") for text in told) == 1
    rows = [row for row in data_table(picture).rows if row[0] == "onset (step size)"]
    assert len(rows) == 6
    assert picture.notes == ["Tasks: 1 sort, 2 copy, 3 reverse."]


def test_pairs_are_found_in_either_order() -> None:
    def turned(q: Quantity) -> Quantity:
        if "first" not in q.labels:
            return q
        return replace(q, labels={**q.labels, "first": q.labels["second"], "second": q.labels["first"]})

    records = geometry_records()
    other = [replace(r, quantities=tuple(map(turned, r.quantities))) for r in records]
    assert sorted(onsets_of(records)) == pytest.approx(sorted(onsets_of(other)))
    assert len(onsets_of(other)) == 6


def onsets_of(records: list[Record]) -> list[float]:
    picture = matrix_picture(records)
    assert picture is not None
    panel = picture.panels[0]
    assert isinstance(panel, Matrix)
    return [cell.mean for cell in panel.cells.values() if cell.mean is not None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.00034, "3e-4"), (0.012, ".012"), (0.5, ".5"), (0.999, "1"), (2.54, "2.5"), (14.2, "14"),
        (997.0, "997"), (123456.0, "1e5"), (1.0, "1"), (-0.25, "-.25"),
    ],
)  # fmt: skip
def test_numbers_in_cells_are_short(value: float, text: str) -> None:
    assert cell_text(value) == text


def test_order_defects_lie_on_the_diagonal_where_the_prediction_is_right() -> None:
    picture = order_picture(geometry_records())
    found = lines(picture)
    for kind in ("between", "within"):
        for x, point in zip(found[kind].x, found[kind].points, strict=True):
            assert point.mean == pytest.approx(x, rel=0.08)
    assert len(found["between"].points) == 9
    assert found["equal"].x == means(found["equal"])
    assert picture is not None
    assert picture.title.startswith("The order defect is 1 times the predicted one where eta kappa is 0.01")
    assert "Onset times kappa, median over pairs (two tasks): 0.1 [" in picture.notes[0]


def test_planes_turn_between_ceiling_and_null() -> None:
    picture = rotation_picture(geometry_records())
    assert picture is not None
    overlap, retention = lines(picture, 0), lines(picture, 1)
    assert means(overlap["own"])[2] == pytest.approx(2**-0.5)
    assert means(overlap["null"]) == pytest.approx([0.1] * 5)
    assert means(retention["ceiling"]) == pytest.approx([0.8] * 5)
    assert not overlap["task-sort"].shown
    assert picture.notes == ["Half-life in steps, median over tasks: 20 [18.1, 22.1]."]


def test_activation_shifts_stand_beside_noise() -> None:
    picture = activation_picture(geometry_records())
    found = lines(picture)
    assert means(found["weights-activation"]) == pytest.approx([0.015, 0.05, 0.15, 0.5], rel=0.01)
    assert means(found["null"]) == pytest.approx([0.005, 0.05 / 3, 0.05, 0.5 / 3], rel=0.01)
    assert set(found) == {
        "weights-activation", "weights-logit", "factors-activation", "factors-logit", "null", "halves", "tenth",
    }  # fmt: skip
    assert picture is not None
    assert picture.title.endswith("miss their sum by 0.05 at scale 0.1 and 0.5 at scale 1")


# --- tables, and the sentence that comes first ---


def test_tables_hold_controls_beside_what_is_measured() -> None:
    pairs = pairs_table(geometry_records())
    assert pairs is not None
    assert pairs.columns == ("quantity", "two tasks", "two batches of one task", "two random steps")
    cells = {row[0]: row[1:] for row in pairs.rows}
    assert cells["kappa (per step-size unit)"][0].startswith("0.06")
    assert cells["kappa (per step-size unit)"][1].startswith("0.02")
    assert cells["losses add (share)"][2].startswith("0.9")
    assert "kappa of gradients of shuffled labels: 0.015" in pairs.note
    probes = probes_table(geometry_records())
    assert probes is not None
    assert [row[0] for row in probes.rows] == ["slope", "R2"]
    steering = steering_table(geometry_records())
    assert steering is not None
    assert steering.columns[3:6] == ("another task's shift", "a random step's shift", "noise: halves")
    assert [row[0] for row in steering.rows] == [*NAMES[:3], "median over tasks"]
    assert [row[1] for row in steering.rows] == ["2", "3", "4", ""]


def test_what_was_not_measured_is_not_shown() -> None:
    empty = [record(seed, []) for seed in range(3)]
    assert [make(empty) for make in PICTURES] == [None] * len(PICTURES)
    assert [make(empty) for make in (pairs_table, probes_table, steering_table)] == [None] * 3
    assert first_sentence(empty) is None


def test_a_steering_share_without_value_says_why() -> None:
    table = steering_table(changed(geometry_records(), "steering_share", None, task="copy"))
    assert table is not None
    assert table.rows[1][2] == "made away"


def page_of(folder: Path, records: list[Record]) -> str:
    for one in records:
        one.save(folder / "records")
    write_claims(folder, records, 10)
    return render(folder)


def text_of(page: str) -> str:
    """The words of a page's body, without what stands in scripts."""
    body = re.sub(r"<script.*?</script>|<style.*?</style>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_first_sentence_says_where_order_matters_within_a_task_as_much(tmp_path: Path) -> None:
    quiet = text_of(page_of(tmp_path / "quiet", geometry_records()))
    assert "Order matters as much between two batches" not in quiet
    loud = text_of(page_of(tmp_path / "loud", geometry_records(Made(kappa_within=0.1))))
    opening = loud.split(f"{SECTION.title} # ")[-1]
    assert opening.startswith("Order matters as much between two batches of one task as between two tasks: the median")
    assert "0.2 [0.18" in opening[:300]


def test_equal_within_and_between_counts_as_as_much() -> None:
    records = changed(changed(geometry_records(), "median_kappa", 0.05), "median_kappa", 0.05, pair="within")
    assert first_sentence(records) is not None
    assert first_sentence(changed(records, "median_kappa", 0.04, pair="within")) is None


def test_all_tasks_have_their_own_heading_and_are_no_damaged_task(tmp_path: Path) -> None:
    drift = Record(
        "basis_drift", "sort", 0, "synthetic", "toy", "lora_factors", 1000, "0" * 16,
        (Quantity("floor", 0.01, "fraction"), Quantity("half_life", 3.0, "steps", labels={"from": "broken"})),
        {"half_life": "made up"},
    )  # fmt: skip
    page = page_of(tmp_path, [*geometry_records(n_seeds=1), drift])
    text = text_of(page)
    assert page.count(f"<h2>{SECTION.title} <a") == 1
    assert '<h2 class="task">All tasks</h2>' in page
    assert '<h2 class="task">Damaged task: sort</h2>' in page
    assert page.index("Damaged task: sort") < page.index('<h2 class="task">All tasks</h2>')
    assert "damaged and recovered on sort</h1>" in page
    assert '<td data-label="Task">all tasks</td>' in page
    assert "Damaged task: all_tasks" not in text


def test_a_page_of_nothing_else_opens_with_what_was_measured(tmp_path: Path) -> None:
    page = page_of(tmp_path, geometry_records(n_seeds=1))
    assert "toy: local geometry of all tasks</h1>" in page
    assert "neither damaged nor recovered" in page
    assert "one seed: no interval" in page
    assert not re.search(r"\[\d[^\]]*, \d[^\]]*\]", text_of(page).split("Data:")[0].split(SECTION.title)[-1])


def test_measurements_without_recovery_open_as_such(tmp_path: Path) -> None:
    steering = Record("steering", "sort", 0, "synthetic", "toy", "lora_factors", 1000, "0" * 16, (), {})
    page = page_of(tmp_path, [*geometry_records(n_seeds=1), steering])
    assert "the operating point, measured on sort</h1>" in page
    assert "damaged and recovered" not in text_of(page)


def test_the_terminal_names_all_tasks() -> None:
    claims = evaluate_claims(geometry_records(), 10)
    claims += [replace(claims[0], task="sort")]
    cells = [str(cell) for cell in claims_table(claims).columns[0].cells]
    assert [cell for cell in cells if cell in ("all tasks", "sort")] == ["all tasks", "sort"]


@pytest.mark.parametrize("n_tasks", [1, 2, 10])
def test_every_picture_is_drawn_for_few_and_many_tasks(n_tasks: int) -> None:
    records = geometry_records(Made(n_tasks=n_tasks))
    if n_tasks == 1:
        records = [
            replace(r, quantities=tuple(q for q in r.quantities if q.value is None or np.isfinite(q.value)))
            for r in records
        ]
    for make in PICTURES:
        picture = make(records)
        assert picture is not None
        assert marks(picture) > 0
        data_table(picture)
