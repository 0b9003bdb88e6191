"""Advice that was tested on the run that it is given for: `check_advice`, and the record that its tests leave.

Rules stand in `lineament.claims.advice_tests`; they were fixed before any result (protocol, section 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lineament.advice import rank_check, refresh_check, span_check
from lineament.advice.inside import first_update_cosine
from lineament.advice.run import CheckedRun, Progress
from lineament.advice.training import Training
from lineament.claims.advice import Advice, advise, whole_rank, whole_refresh, whole_steps
from lineament.claims.advice_tests import MEASUREMENT
from lineament.claims.intervals import FEWEST_SEEDS
from lineament.errors import InputError
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.blind_run import optimizer_of
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity, Record
from lineament.settings.plain import digest
from lineament.study.training import own_gradients
from lineament.vectors.recording.reader import Trajectory

DEFINITIONS = {
    "recorded": "|D| = |theta_end - theta_0| of the recording that was tested",
    "checked": "hash of how the tests were made",
    "run_loss": "mean held-out loss at the start and at the end of the recorded run",
    "first_update_cosine": "cosine of the first update of the training that was made again with the recorded one; 1: "
    "the same batch and optimizer",
    "run_drop": "its fall between them; error: bootstrap over held-out examples",
    **span_check.DEFINITIONS,
    **refresh_check.DEFINITIONS,
    "rank_cost": rank_check.DEFINITION,
}
# Given each test's record as it grows, so that a check that is cut short goes on where it was.
Save = Callable[[Record], object]
Labels = dict[str, Label]


@dataclass(frozen=True)
class CheckOptions:
    """How tests are made.

    Attributes:
        seed: of everything random in them.
        repeats: trainings, each on other batches, with every refresh interval; at least 3, for an interval.
    """

    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < FEWEST_SEEDS:
            raise InputError(f"repeats is {self.repeats}; fewer than {FEWEST_SEEDS} trainings have no interval.")

    def hash(self) -> str:
        """Identity of the options."""
        return digest(asdict(self))


@dataclass(frozen=True)
class Work:
    """One test that is to be made.

    Attributes:
        name: what is done, for progress. quantity, labels: what tells its first figure from others.
        steps: steps of training that it takes. make: makes its figures; told after each step of training.
    """

    name: str
    quantity: str
    labels: Labels
    steps: int
    make: Callable[[Callable[[], None]], list[Quantity]]


def check_advice(
    recording: Path | str,
    training: Training,
    *,
    options: AnalysisOptions | None = None,
    check: CheckOptions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[Advice]:
    """Analyze a recording and test each line of advice that has a test, on the training that it was recorded from.

    Takes from one to some twenty times the recorded training. The model's weights, gradients and torch's random state
    come back.

    Args:
        recording: its folder, with whole rows.
        training: how to make it again, and how it is judged.
        options: of the analysis; its `optimizer` states the one that was used where the recording does not know it.
        check: how tests are made.
        progress: told (what is done, steps of training done, steps in all).

    Returns:
        The lines of `advise`, with `tested` where there was a test. Intervals are within this one run.

    Raises:
        InputError: a sketched recording, or a training of other parameters than it recorded.
    """
    trajectory, options = Trajectory(recording), options or AnalysisOptions()
    require_checkable(trajectory, options)
    analysis = analyze_recording(trajectory, str(trajectory.about.get("task", "recording")), 0, options)
    tests = check_recording(trajectory, training, analysis, advise([analysis]), options, check=check, progress=progress)
    return advise([analysis, tests])


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


def check_recording(
    trajectory: Trajectory,
    training: Training,
    analysis: Record,
    lines: Sequence[Advice],
    options: AnalysisOptions,
    *,
    check: CheckOptions | None = None,
    earlier: Record | None = None,
    progress: Progress = lambda what, done, total: None,
    save: Save = lambda record: None,
) -> Record:
    """Test lines of advice on one of the recordings that they were made from.

    Args:
        analysis: of this recording. lines: of all recordings of the training, since their means are what is advised.
        options: of the analysis. check: how tests are made.
        earlier: what an earlier check of it left; what it has is not made again if it was made alike.
        save: given the record after each test.
    """
    check = check or CheckOptions()
    with torch.random.fork_rng(_devices()):
        space = training.space_of(trajectory)
        with space.restored(), own_gradients(space.tensors):
            rule = optimizer_of(trajectory, options).groups[0].rule
            run = CheckedRun.of(trajectory, training, rule, seed=check.seed, repeats=check.repeats)
            record = _begun(run, analysis, check)
            known = earlier.quantities if earlier is not None and _same(earlier, record) else ()
            todo = list(_works(run, lines, analysis))
            done, total = 0, max(1, sum(work.steps for work in todo))
            for work in todo:
                found = _found(known, work)
                if not found:
                    found = work.make(_teller(progress, f"testing {work.name}", done, total))
                done += work.steps
                record = replace(record, quantities=(*record.quantities, *found))
                save(record)
            progress("testing is done", total, total)
    return record


def _works(run: CheckedRun, lines: Sequence[Advice], analysis: Record) -> Iterator[Work]:
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
            yield _refresh_work(run, line, analysis)


def _rank_work(run: CheckedRun, line: Advice) -> Work:
    statistic, rank = str(line.labels["statistic"]), whole_rank(line.value)
    labels: Labels = {"statistic": statistic, "rank": rank}
    return Work(f"rank {rank}", "rank_cost", labels, 0, lambda tell: [rank_check.rank_figure(run, statistic, rank)])


def _span_work(run: CheckedRun, line: Advice) -> Work:
    share, steps = float(line.labels["share"]), whole_steps(line.value)
    labels: Labels = {"share": share, "steps": steps}
    return Work(
        f"the first {steps} updates",
        "span_returned",
        labels,
        span_check.span_steps(run),
        lambda tell: span_check.span_figures(run, share, steps, tell),
    )


def _refresh_work(run: CheckedRun, line: Advice, analysis: Record) -> Work:
    share, every = float(line.labels["share"]), whole_refresh(line.value)
    rank = int(next(analysis.select("refresh_lag", **line.labels)).labels["rank"])
    labels: Labels = {"share": share, "steps": every}
    return Work(
        f"a refresh every {every} steps",
        "refresh_loss",
        labels,
        refresh_check.refresh_steps(run, every, rank),
        lambda tell: refresh_check.refresh_figures(run, share, every, rank, tell),
    )


def _begun(run: CheckedRun, analysis: Record, options: CheckOptions) -> Record:
    """Return the record of a check that has tested nothing yet."""
    length = analysis.select("recorded", what="displacement")
    return Record(
        measurement=MEASUREMENT,
        target=analysis.target,
        seed=analysis.seed,
        problem=analysis.problem,
        model=analysis.model,
        space=analysis.space,
        n_params=analysis.n_params,
        config_hash=analysis.config_hash,
        quantities=(
            *length,
            Quantity("checked", 1.0, "checks", labels={"options": options.hash()}),
            *run.drop.quantities(),
            first_update_cosine(run),
        ),
        definitions=DEFINITIONS,
    )


def _same(earlier: Record, begun: Record) -> bool:
    """Whether an earlier check was of the same recording and data, and made alike."""
    return earlier.config_hash == begun.config_hash and earlier.quantities[: len(begun.quantities)] == begun.quantities


def _found(known: Sequence[Quantity], work: Work) -> list[Quantity]:
    """Return the figures that an earlier check has of a test: all that carry its labels."""
    has = any(one.matches(work.quantity, **work.labels) for one in known)
    return [one for one in known if has and all(one.labels.get(k) == v for k, v in work.labels.items())]


def _teller(progress: Progress, what: str, done: int, total: int) -> Callable[[], None]:
    made = done

    def tell() -> None:
        nonlocal made
        progress(what, made, total)
        made += 1

    progress(what, done, total)
    return tell


def _devices() -> list[int]:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(torch.cuda.device_count())) if in_use else []
