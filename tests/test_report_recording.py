"""The report of recordings: a first screen in sentences, ranks by layer and module, tables without empty rows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_adapters_page import Page

from lineament import cli
from lineament.claims.advice import advise
from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, blind_of, cosine_over_recordings
from lineament.report.page import render_records
from lineament.report.sections.recording.story import CHOSEN, recording_story
from lineament.report.series import GREY, Line, Panel, Picture, Style
from lineament.report.sparse import instead_of_drawing, worth_drawing

PAID, STEPS = 8, 100
BLIND_RANKS = (6.0, 8.0, 9.0)


def figures(seed: int) -> list[Quantity]:
    """What an analysis measures, of an adapter of two layers; nothing of gradients."""
    rank = {"statistic": "k90", "paid": PAID}
    modules = [
        Quantity(
            "module_rank", 1.0 + layer + seed, "directions", blind=BLIND_RANKS[seed], labels={**labels, "module": m}
        )
        for layer in range(2)
        for labels in (rank, {**rank, "statistic": "participation_ratio"})
        for m in (f"base.layers.{layer}.attention.q", f"base.layers.{layer}.mlp.up")
    ]
    span = {"basis": "prefix", "share": 0.9, "space_of": "parameters"}
    stale = {"share": 0.25, "at_share": 1.0, "step": 25, "at": 100, "space_of": "parameters"}
    return [
        Quantity("recorded", STEPS, "steps", labels={"what": "steps"}),
        Quantity("recorded", STEPS, "rows", labels={"what": "rows"}),
        Quantity("steps_to_span", 10.0 + seed, "steps", null=90.0, blind=80.0, labels=span),
        *(
            Quantity("refresh_lag", None, "steps", labels={"share": 0.9, "from": phase}, reason="no gradients")
            for phase in ("early", "late", "all")
        ),
        Quantity("task_vector_cosine", 0.9 + 0.04 * seed, "cosine", null=0.5, blind=0.6, labels=stale),
        *modules,
        Quantity("mean_module_rank", 1.5 + seed, "directions", blind=BLIND_RANKS[seed], labels=rank),
    ]


def recordings(n: int, target: str = "mine", model: str = "PeftModel") -> list[Record]:
    whole = {quantity.name: "what it is" for quantity in figures(0)}
    of = ("recording", model, "lora_factors", 64, "0" * 16)
    return [Record("recording", target, seed, *of, tuple(figures(seed)), whole) for seed in range(n)]


def test_the_first_screen_answers_each_question_in_a_sentence_with_a_bar() -> None:
    rank, span, stale = recording_story(recordings(3))
    assert rank.sentence.startswith("The updates used 2.5 [")
    assert rank.bar is not None
    assert rank.bar.end == f"rank {PAID}"
    assert rank.bar.measured == pytest.approx(100 * 2.5 / PAID)
    assert rank.bar.blind == pytest.approx(100 * np.mean(BLIND_RANKS) / PAID)
    assert span.bar is not None
    assert span.bar.end == f"{STEPS} steps"
    assert (span.bar.null, span.bar.blind) == (90, 80)
    assert stale.figures == ""  # a description, which has no test
    assert rank.figures == span.figures == "untested"
    assert {line.kind for line in (rank, span, stale)} == {"inconclusive"}


def test_targets_are_named_where_there_are_several() -> None:
    lines = recording_story([*recordings(1, "a"), *recordings(1, "b")])
    assert [line.sentence[:3] for line in lines] == ["a: ", "b: ", "a: ", "b: "]


def test_no_line_is_chosen_by_its_result() -> None:
    lines = [line for line in advise(recordings(1)) if line.says]
    for line in lines:
        assert CHOSEN[line.topic].items() <= line.labels.items()


@pytest.mark.parametrize(
    ("target", "model", "heading"),
    [("mine", "PeftModel", "Recorded training of mine"), ("recording", "/home/me/a/model", "Recorded training")],
)
def test_the_heading_says_what_it_is(target: str, model: str, heading: str) -> None:
    text = render_records(recordings(1, target, model), None)
    assert f"<h1>{heading}</h1>" in text
    assert f"<title>Lineament report: {heading}</title>" in text
    assert f"{STEPS} updates over {STEPS} steps" in text


def test_the_rank_of_each_module_stands_in_a_grid_of_layers() -> None:
    found = Page(render_records(recordings(3), None))
    head, *rows = found.grids[f"Rank used of the {PAID} paid for, by layer and module"]
    assert head == ["layer", "q", "up"]
    assert rows == [["0", "2", "2"], ["1", "3", "3"]]


def test_blind_ranks_are_averaged_as_ranks_and_blind_fractions_on_logits() -> None:
    ranks = [Quantity("module_rank", 1.0, "directions", blind=blind) for blind in BLIND_RANKS]
    assert blind_of(ranks).mean == pytest.approx(np.mean(BLIND_RANKS))
    shares = [Quantity("capture", 0.5, "fraction", blind=blind) for blind in (0.1, 0.5)]
    assert blind_of(shares).mean == pytest.approx(0.25)  # odds 1/9 and 1: their geometric mean is 1/3
    assert f"A blind run uses {np.mean(BLIND_RANKS):.3g} on average" in render_records(recordings(3), None)


def test_intervals_of_cosines_stay_inside_what_cosines_can_be() -> None:
    near = [Quantity("task_vector_cosine", value, "cosine") for value in (0.999, 0.9, 0.5)]
    found = cosine_over_recordings(near)
    assert found.low is not None
    assert found.high is not None
    assert found.mean is not None
    assert -1 < found.low < found.mean < found.high < 1
    plain = np.std([0.999, 0.9, 0.5], ddof=1) / np.sqrt(3) * 4.303
    assert found.mean + plain > 1  # what an interval of the cosines themselves would be
    assert cosine_over_recordings(near[:1]).low is None


def test_figures_that_nobody_has_are_told_once_and_have_no_row() -> None:
    text = render_records(recordings(1), None)
    assert "No answer to &#34;How long a plane of gradients is of use&#34;: no gradients." in text
    assert "undefined: " not in text
    assert not re.search(r"<tbody>\s*</tbody>", text)


def chart(*panels: tuple[str, list[float], list[float | None]]) -> Picture:
    def drawn(title: str, x: list[float], values: list[float | None]) -> Panel:
        points = [Estimate(value, reason=None if value is not None else "too short") for value in values]
        return Panel(title, "x", "y", [Line("key", "series", "own", Style(GREY), x, points)])

    return Picture("key", "Title", "Caption.", [drawn(*panel) for panel in panels], [])


def test_a_panel_without_a_value_is_left_out_with_the_reason() -> None:
    shown = worth_drawing(chart(("full", [1, 2], [0.5, 0.6]), ("empty", [1, 2], [None, None])))
    assert shown is not None
    assert [panel.title for panel in shown.panels] == ["full"]
    assert list(shown.notes) == ["Not drawn: empty: too short."]


def test_one_dot_is_a_table_and_no_value_is_a_sentence() -> None:
    one = chart(("only", [1, 2], [0.5, None]))
    assert worth_drawing(one) is None
    table = instead_of_drawing(one)
    assert table is not None
    assert table.caption == "Title"
    assert ("only", "series", "x 1", "0.5") in [row[:4] for row in table.rows]
    nothing = chart(("none", [1, 2], [None, None]))
    assert worth_drawing(nothing) is None
    assert instead_of_drawing(nothing) is None
    assert worth_drawing(chart(("two", [1, 2], [0.5, 0.6]))) is not None


def test_a_row_of_two_series_is_drawn_and_one_alone_is_not() -> None:
    (panel,) = chart(("row", [0], [0.5])).panels
    assert isinstance(panel, Panel)
    alone = replace(panel, rows=("name",))
    beside = replace(alone, lines=[*alone.lines, replace(alone.lines[0], key="other")])
    picture = chart(("row", [0], [0.5]))
    assert worth_drawing(replace(picture, panels=[alone])) is None
    assert worth_drawing(replace(picture, panels=[beside])) is not None


def test_a_recording_of_a_few_rows_has_a_page(tmp_path: Path) -> None:
    from test_recordings import recording

    recording(tmp_path / "rows", torch.eye(8))
    assert cli.main(["analyze", str(tmp_path / "rows"), "--quiet", "--window", "4", "--plane-rank", "2"]) == 0
    text = (tmp_path / "rows" / "analysis" / "report.html").read_text()
    assert "<h1>Recorded training" in text
    assert "8 updates over 8 steps" in text
