"""Advice that was tested on the run that it is given for: `check_advice`, and the record that its tests leave.

Rules stand in `lineament.claims.advice_tests`; they were fixed before any result (protocol, section 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lineament.advice import rank_check, refresh_check, span_check
from lineament.advice.gradients import retention_made_again
from lineament.advice.inside import first_update_cosine
from lineament.advice.loss_drop import LossDrop
from lineament.advice.options import CheckOptions
from lineament.advice.run import CheckedRun, Progress
from lineament.advice.training import Training
from lineament.claims.advice import advise, whole_rank, whole_refresh, whole_steps
from lineament.claims.advice_line import Advice
from lineament.claims.advice_tests import MEASUREMENT
from lineament.errors import InputError
from lineament.measurements.recording import retention
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.blind_run import optimizer_of
from lineament.measurements.recording.options import AnalysisOptions
from lineament.problems.progress import silent
from lineament.records import Label, Quantity, Record
from lineament.study.training import own_gradients, own_random_state
from lineament.vectors.recording.reader import Trajectory

DEFINITIONS = {
    "recorded": "|D| = |theta_end - theta_0| of the recording that was tested",
    "checked": "hash of how the tests were made",
    "run_loss": "mean held-out loss at the start and at the end of the recorded run",
    "first_update_cosine": "cosine of the first update of the training that was made again with the recorded one; 1: "
    "the same batch and optimizer",
    "run_drop": "its fall between them; error: bootstrap over held-out examples",
    **retention.DEFINITIONS,
    **span_check.DEFINITIONS,
    **refresh_check.DEFINITIONS,
    "rank_cost": rank_check.DEFINITION,
}
# What a record of tests holds besides their figures.
HEAD = ("recorded", "checked", "run_loss", "run_drop", "first_update_cosine", *retention.DEFINITIONS)
# Given each test's record as it grows, so that a check that is cut short goes on where it was.
Save = Callable[[Record], object]
Labels = dict[str, Label]


@dataclass(frozen=True)
class Begun:
    """A check that has tested nothing yet, or that goes on with what an earlier one left.

    Attributes:
        record: what is known so far.
        drop: held-out losses at both ends of the recording, so that they are evaluated once.
    """

    record: Record
    drop: LossDrop


@dataclass(frozen=True)
class Work:
    """One test that is to be made.

    Attributes:
        topic: one of `TOPICS`, with which the names of its figures begin. name: what is done, for progress.
        labels: those of all its figures.
        steps: steps of training that it takes. make: makes its figures; told after each step of training.
    """

    topic: str
    name: str
    labels: Labels
    steps: int
    make: Callable[[Callable[[], None]], list[Quantity]]


def check_advice(
    recording: Path | str | Sequence[Path | str],
    training: Training | Sequence[Training],
    *,
    options: AnalysisOptions | None = None,
    check: CheckOptions | None = None,
    progress: Progress = silent,
) -> list[Advice]:
    """Analyze a recording and test each line of advice that has a test, on the training that it was recorded from.

    Takes 30 to 100 times the recorded training; `check.tests` leaves some out. The model's weights, gradients and
    torch's random state come back.

    Args:
        recording: its folder, with whole rows; or several, of replicates of one training.
        training: how to make it again, and how it is judged; one for each recording.
        options: of the analysis; its `optimizer` states the one that was used where the recording does not know it.
        check: how tests are made.
        progress: told (what is done, steps of training done, steps in all).

    Returns:
        The lines of `advise`, with `tested` where there was a test. Intervals are Student t over recordings, and within
        the run where there is one.

    Raises:
        InputError: not one training for each recording, sketched rows, an optimizer that is not known, or a training of
            other parameters than were recorded.
    """
    folders = [recording] if isinstance(recording, Path | str) else list(recording)
    trainings = [training] if isinstance(training, Training) else list(training)
    if not folders or len(folders) != len(trainings):
        raise InputError(f"{len(folders)} recordings and {len(trainings)} trainings; give one training for each.")
    options, trajectories = options or AnalysisOptions(), [Trajectory(folder) for folder in folders]
    for trajectory in trajectories:
        require_checkable(trajectory, options)
    return _checked(list(zip(trajectories, trainings, strict=True)), options, check, progress)


def _checked(
    runs: Sequence[tuple[Trajectory, Training]],
    options: AnalysisOptions,
    check: CheckOptions | None,
    progress: Progress,
) -> list[Advice]:
    """Analyze replicates, and test what is advised from all of them on each."""
    target = str(runs[0][0].about.get("task", "recording"))
    analyses, begun = list[Record](), list[Begun]()
    for number, (trajectory, training) in enumerate(runs):
        analyses.append(analyze_recording(trajectory, target, number, options))
        begun.append(begin_check(trajectory, training, analyses[-1], options, check, progress=progress))
    lines = advise([*analyses, *(one.record for one in begun)])
    tests = [
        check_recording(trajectory, training, one, lines, options, check, progress=progress)
        for (trajectory, training), one in zip(runs, begun, strict=True)
    ]
    return advise([*analyses, *tests])


def require_checkable(trajectory: Trajectory, options: AnalysisOptions) -> None:
    """Refuse a recording whose training cannot be made again.

    Raises:
        InputError: sketched rows, or an optimizer that is neither recorded nor stated in the options.
    """
    if trajectory.sketch is not None:
        raise InputError(
            f"{trajectory.folder} holds sketched rows, from which no weights can be made. Record without a sketch."
        )
    known = optimizer_of(trajectory, options)
    if not known.known:
        raise InputError(f"{trajectory.folder} cannot be trained again: {known.reason}.")


def begin_check(
    trajectory: Trajectory,
    training: Training,
    analysis: Record,
    options: AnalysisOptions,
    check: CheckOptions | None = None,
    *,
    earlier: Record | None = None,
    progress: Progress = silent,
) -> Begun:
    """Begin a check, which tests nothing yet: evaluate both ends, and make gradients where none were recorded.

    Args:
        analysis: of this recording. options: of the analysis. check: how tests are made.
        earlier: what an earlier check left; it is gone on with if it was of the same training and made alike.
    """
    check = check or CheckOptions()
    with _at_work(trajectory, training, options, check) as run:
        record = _begun(run, analysis, check)
        if earlier is not None and earlier.quantities[: len(record.quantities)] == record.quantities:
            record = replace(earlier, config_hash=record.config_hash)
        known = trajectory.gradients is not None or any(record.select("refresh_lag"))
        if not known and "refresh" in check.tests:
            tell = _teller(progress, "making gradients again", 0, trajectory.n_steps)
            made = retention_made_again(run, options, tell)
            record = replace(record, quantities=(*record.quantities, *made))
        return Begun(record, run.drop)


def check_recording(
    trajectory: Trajectory,
    training: Training,
    begun: Begun,
    lines: Sequence[Advice],
    options: AnalysisOptions,
    check: CheckOptions | None = None,
    *,
    progress: Progress = silent,
    save: Save = lambda record: None,
) -> Record:
    """Test lines of advice on one of the recordings that they were made from.

    Args:
        begun: what `begin_check` returned for it; tests that it holds are not made again.
        lines: of all recordings of the training, since their means are what is advised.
        options: of the analysis. check: how tests are made.
        save: given the record after each test.
    """
    check = check or CheckOptions()
    with _at_work(trajectory, training, options, check, begun.drop) as run:
        known = begun.record.quantities
        record = replace(begun.record, quantities=tuple(one for one in known if one.name in HEAD))
        todo = [(work, _found(known, work)) for work in _works(run, lines)]
        todo = [(work, found) for work, found in todo if found or work.topic in check.tests]
        done, total = 0, max(1, sum(work.steps for work, found in todo if not found))
        for work, found in todo:
            if not found:
                found = work.make(_teller(progress, f"testing {work.name}", done, total))
                done += work.steps
            record = replace(record, quantities=(*record.quantities, *found))
            save(record)
        progress("testing is done", total, total)
    return record


@contextmanager
def _at_work(
    trajectory: Trajectory,
    training: Training,
    options: AnalysisOptions,
    check: CheckOptions,
    drop: LossDrop | None = None,
) -> Iterator[CheckedRun]:
    """Give the run to tests; the model's weights and gradients, and torch's random state, come back."""
    with own_random_state():
        space = training.space_of(trajectory)
        with space.restored(), own_gradients(space.tensors):
            rule = optimizer_of(trajectory, options).groups[0].rule
            yield CheckedRun.of(trajectory, training, rule, check, drop)


def _works(run: CheckedRun, lines: Sequence[Advice]) -> Iterator[Work]:
    """Yield the tests of all lines that have one and are advice, the cheapest first."""
    advised = [line for line in lines if line.testable and not line.no_advice]
    for line in advised:
        if line.quantity == "mean_module_rank":
            yield _rank_work(run, line)
    for line in advised:
        if line.quantity == "steps_to_span" and line.labels["space_of"] == "parameters":
            yield _span_work(run, line)
    for line in advised:
        if line.quantity == "refresh_lag":
            yield _refresh_work(run, line)


def _rank_work(run: CheckedRun, line: Advice) -> Work:
    statistic, rank = str(line.labels["statistic"]), whole_rank(line.value)
    labels: Labels = {"statistic": statistic, "rank": rank}
    return Work(*("rank", f"rank {rank}", labels, 0), lambda tell: [rank_check.rank_figure(run, statistic, rank)])


def _span_work(run: CheckedRun, line: Advice) -> Work:
    share, steps = float(line.labels["share"]), whole_steps(line.value)
    labels: Labels = {"share": share, "steps": steps}
    return Work(
        "span",
        f"the first {steps} updates",
        labels,
        span_check.span_steps(run),
        lambda tell: span_check.span_figures(run, share, steps, tell),
    )


def _refresh_work(run: CheckedRun, line: Advice) -> Work:
    share, every = float(line.labels["share"]), whole_refresh(line.value)
    rank = int(line.of_rank or 1)
    labels: Labels = {"share": share, "steps": every}
    return Work(
        "refresh",
        f"a refresh every {every} steps",
        labels,
        refresh_check.refresh_steps(run, every, rank),
        lambda tell: refresh_check.refresh_figures(run, share, every, rank, tell),
    )


def _begun(run: CheckedRun, analysis: Record, options: CheckOptions) -> Record:
    """Return the record of a check that has tested nothing yet."""
    length = analysis.select("recorded", what="displacement")
    figures = (
        *length,
        Quantity("checked", 1.0, "checks", labels={"options": options.hash()}),
        *run.drop.quantities(),
        first_update_cosine(run),
    )
    return replace(analysis, measurement=MEASUREMENT, quantities=figures, definitions=DEFINITIONS, arrays={})


def _found(known: Sequence[Quantity], work: Work) -> list[Quantity]:
    """Return the figures that an earlier check has of a test: all that carry its labels."""
    return [one for one in known if one.name.startswith(f"{work.topic}_") and one.matches(one.name, **work.labels)]


def _teller(progress: Progress, what: str, done: int, total: int) -> Callable[[], None]:
    made = done

    def tell() -> None:
        nonlocal made
        progress(what, min(made, total), total)
        made += 1

    progress(what, done, total)
    return tell
