"""`lineament advise --check`: how each recorded training is made again, and the tests of its advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lineament.advice.check import Begun, begin_check, check_recording, require_checkable
from lineament.advice.options import CheckOptions
from lineament.advice.training import Training, recovery_training, task_training
from lineament.claims.advice import advise
from lineament.claims.advice_tests import MEASUREMENT, tests_of
from lineament.commands.recordings.flags import MADE_AGAIN, Advise
from lineament.commands.terminal import counted
from lineament.commands.time_left import Whole
from lineament.errors import InputError
from lineament.measurements.recording.analysis import STUDY
from lineament.problems.drawn_examples import draw_from, encoded, lines_in_both
from lineament.problems.factory import factory_of
from lineament.problems.labelled_data import LabelledData, Passage, read_labelled
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import chosen_device
from lineament.problems.progress import Progress
from lineament.records import Record
from lineament.runs.executors.progress import JobProgress
from lineament.runs.folder import RunFolder
from lineament.settings.presets import resolve
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.settings.task import data_name
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.vectors.recording.reader import Trajectory

# Folders of a run that hold recordings of its recoveries.
RECORDINGS = ("recording", "recording-no-momentum")
Place = tuple[str, int, Path]


# Loads model and data, told what it does.
Source = Callable[[Progress], Training]


def sources_of(flags: Advise, recordings: Sequence[Place]) -> dict[Path, Source]:
    """Return how the training of every recording is made again: from the run folder that holds it, or from flags.

    Raises:
        InputError: a recording outside a run folder without --model and --data, one that holds sketched rows or whose
            optimizer is not known, flags beside a run folder, or a model of other parameters; says what is needed.
    """
    sources: dict[Path, Source] = {}
    given: Training | None = None
    for _, _, path in recordings:
        trajectory = Trajectory(path)
        require_checkable(trajectory, flags.options)
        of_run = _of_run_folder(flags, trajectory)
        if of_run is not None:
            sources[path] = of_run
            continue
        _require_flags(flags, trajectory)
        given = given or _of_flags(flags)
        given.space_of(trajectory)
        sources[path] = partial(_already, given)
    return sources


def run_of(recording: Path) -> Path | None:
    """Return the run folder whose recovery was recorded there; None for a recording that lies in no run."""
    whole = recording.absolute()
    run = whole.parent.parent
    own = whole.parent.name in RECORDINGS and STUDY.fullmatch(whole.name) and RunFolder(run).config.exists()
    return run if own else None


def earlier_tests(folder: Path, analyses: Sequence[Record]) -> list[Record]:
    """Return the records of tests that an earlier call made of these recordings."""
    files = [folder / f"{replace(record, measurement=MEASUREMENT).name}.json" for record in analyses]
    tests = [Record.load(file) for file in files if file.exists()]
    return tests_of([*analyses, *tests])


def check_recordings(
    flags: Advise,
    analyses: Mapping[Path, Record],
    sources: Mapping[Path, Source],
    earlier: Sequence[Record],
    folder: Path,
    shown: tuple[JobProgress, Whole],
) -> list[Record]:
    """Return the records of the tests of each recording; each is saved as it grows.

    Args:
        analyses: recording -> its record. earlier: what an earlier call tested already. folder: of records.
        shown: where progress goes, and what counts the time that is left while tests are made.
    """
    show, whole = shown
    check = CheckOptions(seed=flags.seed, tests=flags.topics)
    loaded = _Loaded(sources)
    begun = dict[Path, Begun]()
    for path, analysis in analyses.items():
        progress = partial(show, f"{analysis.target}, seed {analysis.seed}")
        known = [one for one in earlier if (one.target, one.seed) == (analysis.target, analysis.seed)]
        before = known[0] if known else None
        training = loaded.training(path, progress)
        begun[path] = begin_check(
            Trajectory(path), training, analysis, flags.options, check, earlier=before, progress=progress
        )
        begun[path].record.save(folder)
    found = []
    whole.begin()
    records = [*analyses.values(), *(one.record for one in begun.values())]
    for number, (path, one) in enumerate(begun.items()):
        target = one.record.target
        label = f"{target}, seed {one.record.seed}"
        lines = advise([record for record in records if record.target == target])
        training = loaded.training(path, partial(show, label))
        found.append(
            check_recording(
                *(Trajectory(path), training, one, lines, flags.options, check),
                progress=counted(show, whole, label, number, len(begun)),
                save=lambda grown: grown.save(folder),
            )
        )
    return found


class _Loaded:
    """Loads trainings, and keeps the last one: all of them together may not fit in memory."""

    def __init__(self, sources: Mapping[Path, Source]) -> None:
        self.sources, self.last = sources, dict[Path, Training]()

    def training(self, path: Path, progress: Progress) -> Training:
        """Return the training of a recording."""
        if path not in self.last:
            self.last = {}  # first, so that two models are never held
            self.last = {path: self.sources[path](progress)}
        return self.last[path]


def _of_run_folder(flags: Advise, trajectory: Trajectory) -> Source | None:
    """Return how a recovery of a run is made again; None where the recording lies in no run folder."""
    run, named = run_of(trajectory.folder), STUDY.fullmatch(trajectory.folder.absolute().name)
    if run is None or named is None:
        return None
    if given := [name for name in MADE_AGAIN if getattr(flags, name) is not None]:
        raise InputError(
            f"{trajectory.folder} lies in the run {run}, which says how it was trained; leave "
            f"--{given[0].replace('_', '-')} out."
        )
    # the folder's name is changed where the task's was unsafe
    target = str(trajectory.about.get("task") or named[1])
    here = {} if flags.device is None else {"device": flags.device}
    settings = updated(RunFolder(run).settings(), here, "--device")
    chosen_device(settings.device)  # refused before anything is written
    return partial(_of_run, settings, run, target, int(named[2]))


def _already(training: Training, progress: Progress) -> Training:
    return training


def _require_flags(flags: Advise, trajectory: Trajectory) -> None:
    lora = trajectory.space.kind == "lora_factors"
    needed = {"--model": flags.model, "--data": flags.data, **({"--adapter": flags.adapter} if lora else {})}
    if missing := [name for name, value in needed.items() if not value]:
        adapter = " --adapter FOLDER (a saved adapter of that training)" if lora else ""
        raise InputError(
            f"{trajectory.folder} lies in no run folder, so nothing says how its training can be made again: "
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing. Give --model NAME (the model that "
            f"was trained){adapter} --data FILE (what it was trained on), or call lineament.check_advice with your own "
            "training function."
        )
    if flags.adapter and not lora:
        raise InputError(f"{trajectory.folder} records plain weights and no LoRA factors; leave --adapter out.")


def _of_run(settings: Settings, run: Path, target: str, seed: int, progress: Progress) -> Training:
    problem = factory_of(settings).make(settings, seed, progress)
    files = RunFolder(run).study_files(target, seed)
    return recovery_training(Case(problem, settings, target, seed, files, progress=progress))


def _of_flags(flags: Advise) -> Training:
    settings = _settings(flags)
    judged = _held_out(flags)  # first, since a model takes long to load
    try:
        problem = LanguageModelProblem(settings, flags.seed)
    except InputError as error:  # the keys of settings are flags here
        raise InputError(str(error).replace("set task.evaluation_examples=", "give --examples ")) from None
    streams, held_out = Streams(flags.seed).child("advice"), None
    if judged is not None:
        draw = streams.generator("held out")
        held_out = encoded(problem, draw_from(problem, judged, flags.examples, draw, settings.task.text_tokens))
    return task_training(problem, settings.task.targets[0], flags.batch, streams.child("batches"), held_out)


def _held_out(flags: Advise) -> LabelledData | None:
    """Read the data that tests are judged on; None where a part of the training's own data serves.

    Raises:
        InputError: it cannot be read, has a single row, or has rows that are trained on.
    """
    if flags.held_out is None:
        return None
    found = read_labelled(flags.held_out)
    if len(found.items) < 2 and not isinstance(found.items[0], Passage):
        raise InputError(f"--held-out {flags.held_out} has 1 row; give at least 2, for an error over examples.")
    if lines := lines_in_both(found, read_labelled(flags.data or "")):
        raise InputError(
            f"--held-out {flags.held_out} has {len(lines)} of its {len(found.items)} rows in --data {flags.data} too "
            f"(the first in line {lines[0]}). Tests are judged on what was not trained on; take these rows out of one "
            "of the two."
        )
    return found


def _settings(flags: Advise) -> Settings:
    task = data_name(flags.data or "")
    changes = {
        "model.name": flags.model,
        "model.adapter": str(flags.adapter or ""),
        "task.data": flags.data,
        "task.names": (task,),
        "task.targets": (task,),
        "task.evaluation_examples": flags.examples,
        "recovery.space": "lora" if flags.adapter else "full",
        "threads": flags.threads,
        "device": flags.device or "auto",
        "measure": (),
    }
    return resolve("lm", "quick", [("the command line", changes)])
