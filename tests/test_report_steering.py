"""Pictures and tables of steering, from hand-made records whose cosines, effects and KL follow a known law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_svg import marks, series
from steering_records import (
    DOSES,
    KL,
    LAYERS,
    N_RANDOM,
    N_SHUFFLED,
    NULL,
    OTHER_TASKS,
    PEAK,
    PRICE,
    RANDOM_RATIO,
    RATIO,
    SEEDS,
    SIZES,
    STRENGTH,
    best_of,
    cosine_at,
    record,
    steering_records,
    without_reference,
)

from lineament.records import Record
from lineament.report.page import render
from lineament.report.sections.steering.cosine import cosine_picture
from lineament.report.sections.steering.dose import dose_picture
from lineament.report.sections.steering.draws import draws_picture
from lineament.report.sections.steering.equal_kl import effect_picture
from lineament.report.sections.steering.linearity import linearity_picture
from lineament.report.sections.steering.section import SECTION
from lineament.report.sections.steering.tables import (
    accuracy_table,
    agreement_table,
    calibrated_table,
    collateral_table,
)
from lineament.report.series import Line, Picture, data_table, undefined_notes
from lineament.settings.words import ranges

PICTURES = (cosine_picture, draws_picture, linearity_picture, dose_picture, effect_picture)
FACTOR = float(np.mean([1 + shift for _, shift in SEEDS]))


def lines(picture: Picture | None, panel: int = 0) -> dict[str, Line]:
    """The first line of every key."""
    assert picture is not None
    found: dict[str, Line] = {}
    for line in picture.panels[panel].lines:
        found.setdefault(line.key, line)
    return found


def means(line: Line) -> list[float | None]:
    return [point.mean for point in line.points]


def title(picture: Picture | None) -> str:
    assert picture is not None
    return picture.title.replace("\u00a0", " ")


def drop(records: list[Record], quantity: str) -> list[Record]:
    return [replace(r, quantities=tuple(f for f in r.quantities if f.name != quantity)) for r in records]


def test_cosines_by_layer_follow_the_law() -> None:
    found = lines(cosine_picture(steering_records()))
    layers = range(1, LAYERS + 1)
    expected = [np.mean([cosine_at(layer, best, PEAK + shift) for best, shift in SEEDS]) for layer in layers]
    assert means(found["raw-jacobian"]) == pytest.approx(expected)
    assert means(found["raw-finite"]) == pytest.approx([0.9 * value for value in expected])
    assert means(found["adam-jacobian"]) == pytest.approx([0.5 * value for value in expected])
    assert means(found["null"]) == pytest.approx([0.8 * NULL] * LAYERS)
    assert means(found["paper"]) == [0.58, 0.58]


def test_the_grey_band_reaches_from_minus_to_plus_the_largest_null() -> None:
    picture = cosine_picture(steering_records())
    assert picture is not None
    (band,) = [line for line in picture.panels[0].lines if line.mode == "band"]
    assert [(p.mean, p.low, p.high) for p in band.points] == [pytest.approx((0.0, -0.24, 0.24))] * LAYERS
    low, high = picture.panels[0].y_range or (0, 0)
    assert low < -0.24
    assert high > 0.62


@pytest.mark.parametrize("words", [False, True])
def test_layers_without_reference_are_crossed_out_and_named(words: bool) -> None:
    picture = cosine_picture(steering_records(words=words))
    crosses = lines(picture)["no-reference"]
    assert list(crosses.x) == [1]
    assert crosses.points[0].reason == "no reference in 3 of 3 seeds"
    assert picture is not None
    assert "Seeds in which the CAA vector is no reference: layer 1 in 3 of 3." in picture.notes
    assert "Best layer, by the gradient step's cosine: 3 (seed 0), 3 (seed 1), 2 (seed 2)." in picture.notes


def test_the_cosine_title_holds_the_null() -> None:
    assert title(cosine_picture(steering_records())).endswith(
        "has cosine 0.6 with the CAA vector, the best null draw 0.3"
    )
    assert "No layer" in title(cosine_picture([without_reference(0), without_reference(1)]))


def test_every_null_draw_is_a_dot_beside_the_step_of_its_seed() -> None:
    picture = draws_picture(steering_records())
    found = lines(picture)
    assert picture is not None
    assert list(picture.panels[0].rows) == [
        "gradient step",
        "Adam's first step",
        "random weight directions",
        "steps on shuffled labels",
        "steps on other tasks' prompts",
    ]
    assert means(found["best-raw"]) == pytest.approx([PEAK + shift for _, shift in SEEDS])
    rows = (
        ("random_weights", 2, N_RANDOM, NULL),
        ("shuffled_labels", 3, N_SHUFFLED, 0.9 * NULL),
        ("other_tasks", 4, len(OTHER_TASKS), 0.95 * NULL),
    )
    for key, row, n, largest in rows:
        dots = found[f"draws-{key}"]
        assert len(dots.points) == len(SEEDS) * n
        assert max(value for value in means(dots) if value is not None) == pytest.approx(largest)
        # the n-th seed stands at the same place in its row as the step of that seed
        assert sorted(set(dots.x)) == pytest.approx([row + place for place in found["best-raw"].x])


def test_the_title_counts_the_seeds_above_all_draws() -> None:
    assert "closer to the CAA vector than all 36 null draws in all 3 seeds" in title(draws_picture(steering_records()))
    assert "in both seeds" in title(draws_picture(steering_records()[:2]))
    # one seed is above 0.59, the two others at or below
    assert "in 2 of 3 seeds" in title(draws_picture(steering_records(null=0.59)))
    assert "Some of 36 null draws come as close" in title(draws_picture(steering_records(null=0.7)))
    assert "in the one seed" in title(draws_picture(steering_records()[:1]))


def test_linearity_is_told_at_each_seed_s_best_layer() -> None:
    picture = linearity_picture(steering_records())
    for panel, law in ((0, lambda s: 1 / np.sqrt(1 + s * s)), (1, lambda s: 1 / (1 + s))):
        found = lines(picture, panel)
        assert means(found["best"]) == pytest.approx([law(size) for size in SIZES])
        assert {key for key in found if key.startswith("layer-")} == {"layer-1", "layer-3", "layer-4"}
        # layer 3 is the best one in two of three seeds
        expected = [(2 * law(size) + law(2 * size)) / 3 for size in SIZES]
        assert means(found["layer-3"]) == pytest.approx(expected)
    assert "within a cosine of 0.9 up to 0.3 of the CAA vector's length, but not at 1" in title(picture)


def test_doses_are_drawn_by_length_and_by_kl() -> None:
    picture = dose_picture(steering_records())
    assert picture is not None
    by_dose, by_kl = lines(picture), [line for line in picture.panels[1].lines if line.key in STRENGTH]
    positive = [dose for dose in DOSES if dose > 0]
    for name, strength in STRENGTH.items():
        # the random direction of one seed points the other way, and is turned: else a third of it would cancel
        assert means(by_dose[name]) == pytest.approx([FACTOR * strength * dose for dose in DOSES])
        up, down = [line for line in by_kl if line.key == name]
        # the dose that was sought for equal KL is the first point of the vectors that are compared
        sought = [] if name == "random" else [1 / np.sqrt(PRICE[name])]
        assert list(up.x) == pytest.approx([KL * PRICE[name] * dose**2 for dose in [*sought, *positive]])
        assert means(up) == pytest.approx([FACTOR * strength * dose for dose in [*sought, *positive]])
        assert list(down.x) == pytest.approx([KL * PRICE[name] * dose**2 for dose in positive])
        assert means(down) == pytest.approx([-FACTOR * strength * dose for dose in positive])
    assert list(lines(picture, 1)[f"budget-{KL}"].x) == [KL, KL]
    assert "by 2 along the CAA vector, 1.5 along the gradient step's shift" in title(picture)
    assert any("Accuracy of the model itself on held-out examples: 0.9" in note for note in picture.notes)


def test_at_equal_kl_the_best_layer_of_each_seed_comes_first() -> None:
    picture = effect_picture(steering_records())
    assert picture is not None
    assert list(picture.panels[0].rows) == ["best layer", f"layer {LAYERS}"]
    found = lines(picture)
    assert means(found["caa"])[0] == pytest.approx(FACTOR * STRENGTH["caa"] / 4)
    assert means(found["step"])[0] == pytest.approx(FACTOR * STRENGTH["step"] / 4)
    # signs of the three random directions differ: sizes are averaged, so nothing cancels
    assert means(found["random"]) == [pytest.approx(FACTOR * STRENGTH["random"] / 8), None]
    assert found["caa"].points[0].n_seeds == len(SEEDS)
    (note,) = undefined_notes(picture)
    assert "random weight direction's shift" in note
    assert "unreachable: 0.01 nats per token" in note
    share = f"{100 * RATIO:g} % of the CAA vector's effect, random weight directions {100 * RANDOM_RATIO:.3g} %"
    assert share in title(picture)


def test_the_calibrated_table_holds_doses_effects_and_ratios() -> None:
    table = calibrated_table(steering_records())
    assert table is not None
    caa, step, random = table.rows[:3]
    assert caa[:4] == ("best of each seed", "CAA vector", "0.05", "0.25 [0.25, 0.25]")
    assert step[5].startswith("0.75 [")
    assert random[3] == "0.125 [0.125, 0.125]"
    assert random[5].startswith("0.025 [")
    assert table.rows[5][3].startswith("undefined: unreachable")
    assert table.rows[5][4].startswith("undefined: unreachable")


def test_collateral_is_taken_at_the_best_layer() -> None:
    table = collateral_table(steering_records())
    assert table is not None
    assert [row[:2] for row in table.rows] == [
        (task, vector) for task in ("copy", "reverse") for vector in ("CAA vector", "gradient step's shift")
    ]
    mean = np.mean([0.02 * best_of(seed) for seed in range(len(SEEDS))])
    assert float(table.rows[1][3].partition(" [")[0]) == pytest.approx(-mean, rel=0.05)
    assert float(table.rows[1][4].partition(" [")[0]) == pytest.approx(2 * mean, rel=0.05)


def test_accuracy_by_dose_leaves_out_dose_zero() -> None:
    table = accuracy_table(steering_records())
    assert table is not None
    assert [row[0] for row in table.rows] == ["-2", "-1", "-0.5", "0.5", "1", "2"]
    assert table.rows[0][1] == "-0.2 [-0.2, -0.2]"


def test_agreement_says_where_the_vector_is_a_reference() -> None:
    table = agreement_table(steering_records())
    assert table is not None
    assert table.rows[0] == (
        "1",
        "0 of 3 seeds",
        "0.9 [0.9, 0.9]",
        "0.25 [0.25, 0.25]",
        "0.9 [0.9, 0.9]",
        "0.5 [0.5, 0.5]",
    )
    assert table.rows[1][1] == "3 of 3 seeds"


def test_a_deep_model_s_table_is_thinned_and_says_so() -> None:
    table = agreement_table(steering_records(n_layers=30))
    assert table is not None
    assert len(table.rows) <= 20
    assert {"1", "30", *(str(best_of(seed, 30)) for seed in range(len(SEEDS)))} <= {row[0] for row in table.rows}
    assert f"The table shows {len(table.rows)} of 30 layers" in table.note


@pytest.mark.parametrize("n_layers", [2, LAYERS, 30])
@pytest.mark.parametrize("make", PICTURES)
def test_every_picture_draws_and_tables_what_it_draws(make: Any, n_layers: int) -> None:
    picture = make(steering_records(n_layers=n_layers))
    assert len(series(picture)) >= 2
    assert marks(picture) >= 2
    assert picture.sources
    assert "interval" in picture.caption
    assert data_table(picture).rows


def test_without_a_reference_the_section_says_so_and_draws_cosines_only(tmp_path: Path) -> None:
    records = [without_reference(0), without_reference(1)]
    assert [make(records) is not None for make in PICTURES] == [True, False, False, False, False]
    tables = [table for table in SECTION.tables(records, 10) if table]
    assert [row[1] for row in tables[0].rows] == ["0 of 2 seeds"] * LAYERS
    assert len(tables) == 1
    for r in records:
        r.save(tmp_path / "records")
    page = render(tmp_path)
    assert "Weight steps and steering vectors" in page
    assert "agrees with itself to 0.95" in page


def test_a_seed_without_a_reference_does_not_hide_the_others() -> None:
    records = [*steering_records()[:2], without_reference(2)]
    for make in PICTURES[1:]:
        assert make(records) is not None
    best = lines(linearity_picture(records))["best"]
    assert [point.n_seeds for point in best.points] == [2] * len(SIZES)
    assert "layer 1 in 3 of 3; layers 2-4 in 1 of 3" in " ".join(cosine_picture(records).notes)  # type: ignore[union-attr]


def test_a_record_of_one_part_draws_that_part_only() -> None:
    whole = steering_records()[0]
    cosines = [f for f in whole.quantities if f.name in ("step_cosine", "best_layer_cosine")]
    assert [make([record(0, cosines)]) is not None for make in PICTURES] == [True, False, False, False, False]
    assert SECTION.tables([record(0, cosines)], 10) == [None] * 4
    assert dose_picture(drop(steering_records(), "dose_kl")) is not None


def test_runs_of_layers_are_told_as_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""
