"""The first screen of a report: what was decided, those claims first that a reader asks for first, with pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import Claim
from lineament.report.sections.composition import words as composition_words
from lineament.report.sections.recovery import OPENING as RECOVERY
from lineament.report.story import FIRST, N_SENTENCES, story
from lineament.report.sweep.claim_grid import claim_grids
from lineament.report.sweep.story import sweep_story
from lineament.report.words import model_words


def claim(id: str, verdict: str = "supported", **changes: Any) -> Claim:
    made = Claim(id, "sort", "lora_factors", 10, "what", None, 0.5, 0.25, 0.75, 0.1, "fraction", "rule", verdict)  # type: ignore[arg-type]
    return replace(made, **changes)


def test_claims_that_were_decided_come_in_the_order_of_interest() -> None:
    last = claim(next(id for id in CLAIMS if id not in FIRST))
    lines = story(
        [
            last,
            claim("basis_drifts", "not_supported"),
            claim("static_plane_misses"),
            claim("prefix_captures", "inconclusive"),
        ]
    )
    assert [line.kind for line in lines] == ["supported", "not_supported", "supported"]
    assert lines[0].sentence == CLAIMS["static_plane_misses"].holds
    assert lines[1].sentence == CLAIMS["basis_drifts"].fails
    assert lines[0].figures == "0.5 [0.25, 0.75]; null 0.1"
    assert len(story([claim(id) for id in CLAIMS])) == N_SENTENCES


def test_one_line_does_not_hold_where_any_claim_does_not() -> None:
    last = next(reversed([id for id in CLAIMS if id not in FIRST]))
    lines = story([*(claim(id) for id in FIRST), claim(last, "not_supported")])
    assert [line.kind for line in lines] == ["supported"] * (N_SENTENCES - 1) + ["not_supported"]
    assert lines[-1].sentence == CLAIMS[last].fails
    again = story([*(claim(id) for id in FIRST[1:]), claim(FIRST[0], "not_supported"), claim(last, "not_supported")])
    assert [line.kind for line in again] == ["not_supported"] + ["supported"] * (N_SENTENCES - 1)


def test_names_of_tasks_stand_where_there_are_several() -> None:
    lines = story([claim("basis_drifts"), claim("basis_drifts", task="copy")])
    assert [line.sentence.partition(":")[0] for line in lines] == ["sort", "copy"]


def test_a_bar_is_drawn_for_what_lies_between_0_and_1() -> None:
    (line,) = story([claim("prefix_captures", blind=0.2)])
    assert line.bar is not None
    assert (line.bar.low, line.bar.measured, line.bar.high, line.bar.null, line.bar.blind) == (25, 50, 75, 10, 20)
    assert story([claim("prefix_captures", null=-0.1)])[0].bar.null is None  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{"high": 1.2}, {"low": -0.1}, {"measured": None}])
def test_other_figures_have_none(changes: dict[str, Any]) -> None:
    assert story([claim("prefix_captures", **changes)])[0].bar is None


def test_every_claim_named_first_exists() -> None:
    assert set(FIRST) <= CLAIMS.keys()
    assert len(set(FIRST)) == len(FIRST) >= N_SENTENCES


def test_a_figure_without_an_interval_is_a_dot() -> None:
    bar = story([claim("prefix_captures", low=None, high=None)])[0].bar
    assert bar is not None
    assert (bar.low, bar.measured, bar.high) == (50, 50, 50)


def test_where_nothing_was_decided_the_lines_say_what_is_open() -> None:
    (line,) = story([claim("basis_drifts", "inconclusive", low=None, high=None)])
    assert line.sentence == "It is open whether the plane of gradients goes stale during the recovery."
    assert (line.kind, line.figures) == ("inconclusive", "0.5; null 0.1")
    assert story([]) == []


def test_a_figure_that_is_no_share_has_no_bar() -> None:
    assert story([claim("drift_follows_loss", unit="per step")])[0].bar is None


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("synthetic transformer 2x64", "synthetic transformer 2x64"),
        ("/home/me/models/base", "base"),
        ("./base/", "base"),
        ("runs/mine/base", "base"),
        ("C:\\models\\base", "base"),
        ("/", "/"),
    ],
)
def test_a_heading_is_no_path(model: str, words: str) -> None:
    assert model_words(model) == words
    assert RECOVERY.heading(model, ["sort", "copy"]) == f"{words}: damaged and recovered on sort, copy"


def test_a_sweep_begins_with_how_often_each_claim_held() -> None:
    cells = [
        {
            "name": f"lr={rate}",
            "values": {"recovery.lr": rate},
            "claims": [{**asdict(claim("basis_drifts", verdict, measured=value, blind=0.1)), "n_seeds": 3}],
        }
        for rate, verdict, value in ((0.1, "supported", 0.2), (0.2, "supported", 0.6), (0.3, "inconclusive", 0.4))
    ]
    (line,) = sweep_story(claim_grids({"vary": [{"key": "recovery.lr", "values": [0.1, 0.2, 0.3]}], "cells": cells}))
    assert line.sentence == f"{CLAIMS['basis_drifts'].title}: 2 supported, 1 inconclusive in 3 cells."
    assert line.figures == "from 0.2 to 0.6; blind 0.1; null 0.1"
    assert line.kind == "inconclusive"
    assert line.bar is not None
    assert (line.bar.low, line.bar.measured, line.bar.high) == (20, 40, 60)
    assert sweep_story([]) == []


def test_a_composition_begins_with_four_sentences_and_leaves_none_out() -> None:
    said = [f"sentence {i}" for i in range(7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition_words, "sentences", lambda record: iter(said))
        first, others = composition_words.first_and_other(None)  # type: ignore[arg-type]
    assert first == [said[0], said[1], said[4], said[5]]
    assert sorted([*first, *others]) == said
