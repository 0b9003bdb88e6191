"""How long the whole will take, as progress shows it: closed forms on a clock of our own."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineament import cli
from lineament.commands import terminal, time_left
from lineament.commands.search.command import _progress
from lineament.commands.search.flags import Search
from lineament.commands.time_left import Pace, Whole, duration
from lineament.runs.executors.progress import ALL_JOBS, ENDED
from lineament.runs.planning import stage_passes
from lineament.settings.presets import resolve


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(time_left, "time", made)
    monkeypatch.setattr(terminal, "time", made)
    return made


def test_the_parts_that_have_ended_tell_the_rest(clock: Clock) -> None:
    whole = Whole()
    assert whole.left_s() is None
    assert whole.words() == ""
    clock.now += 10
    whole.count(1, 5)
    assert whole.left_s() == 40
    clock.now += 4
    assert whole.left_s() == 36
    assert whole.words() == "about 36 s left in all"
    clock.now += 100
    assert whole.left_s() == 0
    assert whole.words() == ""


def test_parts_side_by_side_end_in_rounds(clock: Clock) -> None:
    whole = Whole(at_a_time=2)
    clock.now += 60
    whole.count(1, 5)
    assert whole.left_s() == 120, "five parts, two at a time, are three rounds of a minute"
    clock.now += 1
    whole.count(2, 5)
    assert whole.left_s() == pytest.approx(2 * 61)


def test_stages_that_say_how_far_they_are_tell_the_job(clock: Clock) -> None:
    """1000 passes, of which 100 base model, 200 operating point; 10 passes a second."""
    pace = Pace({"training the base": 100, "training to": 200, "recovering": 300}, 1000)
    pace.report("training the base model", 0, 10)
    assert pace.job_s() is None
    clock.now += 5
    pace.report("training the base model", 5, 10)
    assert pace.job_s() == pytest.approx(100)
    clock.now += 5
    pace.report("something else", 0, 1)
    clock.now += 1000  # a stage without passes says nothing
    pace.report("recovering sort", 0, 100)
    clock.now += 3
    pace.report("recovering sort", 10, 100)
    # 50 passes were seen in the first 10 s, as the base model was last heard of at half; 30 more in 3 s
    assert pace.job_s() == pytest.approx((1000 - 200) * 13 / 80)


def test_stages_of_all_jobs_tell_the_whole(clock: Clock) -> None:
    whole = Whole(2, {"recovering": 50.0}, 100.0)
    whole.count(0, 4)
    for label in ("a", "b"):
        whole.report(label, "recovering x", 0, 10)
    clock.now += 10
    for label in ("a", "b"):
        whole.report(label, "recovering x", 5, 10)
    assert whole.left_s() == pytest.approx(2 * 40 - 10)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "0.04 s"), (4.24, "4.2 s"), (12.3, "12 s"), (59.7, "1 min"), (200, "3 min 20 s")),
        *((2700, "45 min"), (3599, "1 h"), (7500, "2 h 5 min")),
    ],
)
def test_times_are_said_as_a_person_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("problem", ["synthetic", "lm"])
def test_passes_of_stages_are_a_part_of_all(problem: str) -> None:
    stages, passes = stage_passes(resolve(problem, "quick", []))
    assert list(stages)[-2:] == ["damaging", "recovering"]
    assert 0 < sum(stages.values()) < passes
    only, whole = stage_passes(resolve(problem, "quick", [("test", {"measure": "local_geometry"})]))
    assert "recovering" not in only
    assert sum(only.values()) < whole


def test_lines_say_what_is_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with terminal.job_progress(quiet=False, whole=Whole()) as progress:
        progress("seed 0", "recovering", 1, 10)
        clock.now += 30
        progress("seed 0", ENDED, 1, 1)
        progress(ALL_JOBS, "jobs ended", 1, 3)
    first, *_, last = shown.getvalue().splitlines()
    assert first == "[     0 s] seed 0: recovering (1/10)"
    assert last == "[    30 s] all jobs: jobs ended (1/3); about 1 min left in all"


def test_counts_of_equal_parts_tell_the_whole(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of 100 s each; the first says at a quarter of its work how long both will take."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    whole = Whole()
    with terminal.job_progress(quiet=False, whole=whole) as show:
        first, second = (terminal.counted(show, whole, name, place, 2) for place, name in enumerate("ab"))
        first("reading", 0, 4)
        assert whole.left_s() is None
        clock.now += 25
        first("reading", 1, 4)
        assert whole.left_s() == pytest.approx(175)
        clock.now += 75
        second("reading", 0, 0)
        assert whole.left_s() == pytest.approx(100)
    assert shown.getvalue().splitlines() == [
        "[     0 s] a: reading (0/4)",
        "[    25 s] a: reading (1/4); about 2 min 55 s left in all",
        "[   100 s] b: reading (0/0); about 1 min 40 s left in all",
    ]


@pytest.mark.parametrize(("plan", "members"), [(False, 1000), (True, 16 * 11)])
def test_a_search_says_from_its_probe_on_how_long_all_will_take(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, plan: bool, members: int
) -> None:
    """8 s a member: two regions of 5 sigmas and 16 draws each, 16 draws more, and a budget of 1000."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with _progress(Search(run=Path("r"), budget=1000, probe=16, plan=plan)) as progress:
        progress("curvature of full", 0, 2)
        clock.now += 500  # is no pace of members
        progress("probing full", 0, 2)
        clock.now += 8 * 80
        progress("probing prefix", 1, 2)
    assert shown.getvalue().splitlines()[-1].endswith(f"about {duration(8 * (members - 80))} left in all")


def test_a_search_that_goes_on_counts_what_it_scores_itself(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with _progress(Search(run=Path("r"), budget=1000, probe=0)) as progress:
        progress("searching", 500, 1000)
        clock.now += 100
        progress("searching", 600, 1000)
    assert shown.getvalue().splitlines()[-1].endswith("searching (600/1000); about 6 min 40 s left in all")


def test_bars_fit_80_columns_with_all_that_they_say(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with terminal.job_progress(quiet=False, whole=Whole()) as progress:
        for number in (1, 2):
            progress(f"momentum=sgd, seed {number}", "training to the operating point of all tasks", 119, 1200)
        clock.now += 137
        progress(ALL_JOBS, "jobs ended", 1, 3)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).splitlines()]
    last = [line for line in lines if line.startswith("all jobs")][-1]
    assert last.endswith("4 min 34 s left")
    assert max(map(len, lines)) <= 80
    assert any("119/1200" in line and line.startswith("momentum=sgd, seed 2: training") for line in lines)


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_steps_of_a_command_say_what_is_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, on_a_terminal: bool
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "100")
    if on_a_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    with terminal.steps_shown(False, 4) as step:
        step("loading", 0)
        clock.now += 50  # is no share of the work
        step("first", 1)
        clock.now += 20
        step("second", 3)
    text = shown.getvalue()
    assert "loading" in text
    assert "1 min left" in text
    if not on_a_terminal:
        assert text.splitlines()[-1] == "[    70 s] second; about 1 min left in all"


def test_what_is_next_is_said_as_it_can_be_typed_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has activated the environment, `lineament` would be "command not found"."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    terminal.say_next(False, ["lineament advise runs/demo", "another with lineament in it"])
    assert capsys.readouterr().err == "next:\n  lineament advise runs/demo\n  another with lineament in it\n"
    terminal.say_next(True, ["x"])
    assert capsys.readouterr().err == ""
    script = tmp_path / "with space" / "bin" / "lineament"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    terminal.say_next(False, ["lineament runs"])
    assert capsys.readouterr().err == f"next:\n  '{script}' runs\n"
    monkeypatch.chdir(tmp_path / "with space")
    terminal.say_next(False, ["lineament runs"])
    assert capsys.readouterr().err == "next:\n  bin/lineament runs\n"


def test_commands_with_progress_end_with_the_time_they_took() -> None:
    words = ["record-from-checkpoints", "nowhere", "--out", "new"]
    assert not hasattr(cli.COMMANDS["keys"], "quiet")
    assert hasattr(cli.COMMANDS[words[0]], "quiet")
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        cli._say_done(cli._parsed([*words]), time.monotonic() - 75)
        cli._say_done(cli._parsed([*words, "--quiet"]), time.monotonic() - 75)
        cli._say_done(cli._parsed(["keys"]), time.monotonic() - 75)
    assert shown.getvalue() == "done in 1 min 15 s\n"
