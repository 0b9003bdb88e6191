"""`lineament analyze`, `advise` and `record-from-checkpoints`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from shlex import quote

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.claims.advice import advise, analyses, remarks
from lineament.claims.advice_line import Advice, why_untested
from lineament.claims.advice_tests import MEASUREMENT
from lineament.command_line.written import line_of
from lineament.commands.recordings.checking import Place, Source, check_recordings, earlier_tests, run_of, sources_of
from lineament.commands.recordings.earlier import analysis_key, earlier_analyses, remember
from lineament.commands.recordings.flags import Advise, AnalysisFlags, Analyze, RecordFromCheckpoints
from lineament.commands.terminal import console, counted, job_progress, name_foreign, say_end, say_next, steps_shown
from lineament.commands.time_left import Whole
from lineament.errors import InputError, LineamentError
from lineament.files.folders import mark, require_ours, require_writable
from lineament.files.reading import read_json
from lineament.files.writing import delete_leftovers, write_json
from lineament.integrations.checkpoints import record_checkpoints
from lineament.measurements.recording.analysis import NAME, Companions, analyze_recording, find_recordings
from lineament.measurements.recording.options import AnalysisOptions
from lineament.problems.factor_pairs import FACTOR
from lineament.problems.stored_adapters import read_adapter, renamed
from lineament.records import Record, record_files
from lineament.report.page import write_report
from lineament.runs.executors.progress import ENDED
from lineament.runs.folder import RunFolder
from lineament.vectors.recording.reader import Trajectory

ADVICE = "advice.json"
# Pairs of identical checkpoints that are named.
MAX_SHOWN = 5
STANDING_STYLES = {"passed": "green", "failed": "red", "undecided": "yellow"}
BASES = {"null": "null_noise_prefix", "other": "control_other_data"}


def show_analysis(flags: Analyze) -> int:
    """Analyze, write records, advice and report, and print the figures; return the exit code."""
    _print(analyzed(flags), in_words=False)
    advice = line_of("advise", Advise(**{one.name: getattr(flags, one.name) for one in fields(flags)}))
    say_end(flags.quiet, flags.folder / "report.html", [f"{advice}  # what this says about practice"])
    return 0


def show_advice(flags: Advise) -> int:
    """Print the advice, after analyzing recordings that are not analyzed yet; return the exit code."""
    records = analyzed(flags)
    if flags.json:
        print(json.dumps(_bodies(records), indent=1))
    else:
        _print(records, in_words=True)
    say_end(flags.quiet, flags.folder / "report.html", [_after_advice(flags)], data=flags.json)
    return 0


def _after_advice(flags: Advise) -> str:
    """Return what to type after advice: the line that tests it, or, once it is tested, the one that draws it."""
    if flags.check:
        return f"lineament report {quote(str(flags.folder))} --figures DIR  # every picture as SVG and PNG"
    own = line_of("advise", replace(flags, check=True))
    of_runs = all(run_of(path) or RunFolder(path).config.exists() for path in flags.paths)
    more = "" if of_runs else " --model MODEL --data FILE"  # which nothing else tells
    return f"{own}{more}  # tests this, by training again"


def record(flags: RecordFromCheckpoints) -> int:
    """Make a recording from checkpoints; return the exit code."""
    whole = Whole()
    with job_progress(flags.quiet, whole=whole) as show:
        made = record_checkpoints(
            flags.folder,
            flags.out,
            start=flags.start,
            allow_gaps=flags.allow_gaps,
            adapter=flags.adapter,
            dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[flags.dtype],
            optimizer=flags,
            progress=counted(show, whole, flags.folder.name),
        )
    last = made.first_step + made.steps[-1]
    print(f"{made.folder}: {made.n_steps} updates of {made.space.n_params:,} parameters, to step {last}")
    for line in _oddities(made):
        print(line)
    say_next(flags.quiet, [f"lineament advise {quote(str(made.folder))}  # what it says about practice"])
    return 0


def _oddities(made: Trajectory) -> Iterator[str]:
    """Yield what must be known about rows made from checkpoints: which are shorter, and which are zero."""
    lengths = [b - a for a, b in pairwise((0, *made.steps))]
    if lengths[-1] < lengths[0]:
        yield f"the last update is of {lengths[-1]} steps, the others of {lengths[0]}; planes and windows leave it out"
    points = [made.first_step + step for step in (0, *made.steps)]
    still = [row for row in range(made.n_steps) if not made.updates(row + 1, row + 1).rows.any()]
    for row in still[:MAX_SHOWN]:
        yield f"the checkpoints of steps {points[row]} and {points[row + 1]} are identical; that update is not counted"
    if len(still) > MAX_SHOWN:
        yield f"so are {len(still) - MAX_SHOWN} more pairs of neighbours"


def analyzed(flags: AnalysisFlags) -> list[Record]:
    """Return the records of every recording and, with `--check`, those of the tests of what they advise.

    Tests that an earlier call made of the same recordings count too.
    """
    flags.require_usable()
    options, recordings = flags.options, _recordings(flags.paths)
    companions = _companions(flags, recordings[0][2])
    if not _is_old_analysis(flags.folder):
        require_ours(flags.folder, "analysis")
    require_writable(flags.folder)
    torch.set_num_threads(flags.threads)
    sources = _sources(flags, recordings) if isinstance(flags, Advise) and flags.check else None
    folder, records, whole = RunFolder(flags.folder), dict[Path, Record](), Whole()
    with folder.locked(), job_progress(flags.quiet, whole=whole) as show:
        mark(flags.folder, "analysis")
        delete_leftovers(flags.folder)  # of an analysis that was killed
        keys = {place: _key(flags, options, place) for place in recordings}
        earlier = earlier_analyses(flags.folder, keys.values())
        remember(flags.folder, earlier)  # the others' records are about to be replaced
        for number, (target, seed, path) in enumerate(recordings):
            label = f"{target}, seed {seed}"
            # tests take nearly all of the time, and how much is known when they begin
            progress = partial(show, label) if sources else counted(show, whole, label, number, len(recordings))
            if (known := earlier.get(keys[target, seed, path])) is None:
                known = analyze_recording(Trajectory(path), target, seed, options, companions, progress)
                known.save(folder.records)
            records[path] = known
            show(label, ENDED, 1, 1)
        remember(flags.folder, {keys[place]: records[place[2]] for place in recordings})
        own = list(records.values())
        _write(flags.folder, own + (tests := earlier_tests(folder.records, own)))
        if sources and isinstance(flags, Advise):
            tests = check_recordings(flags, records, sources, tests, folder.records, (show, whole))
            _write(flags.folder, own + tests)
    name_foreign(folder.records)
    return own + tests


def _key(flags: AnalysisFlags, options: AnalysisOptions, place: Place) -> str:
    """Return what the analysis of a recording follows from."""
    target, seed, path = place
    files = {"recording": path, "null": flags.null, "other": flags.other, "end": flags.end}
    return analysis_key(f"{options.hash()} {target} {seed}", files, flags.folder)


def _sources(flags: Advise, recordings: Sequence[Place]) -> dict[Path, Source]:
    """Find how trainings are made again; a model that flags name is loaded for it."""
    with steps_shown(flags.quiet, 1) as step:
        if flags.model:
            step(f"loading {flags.model}", 0)
        return sources_of(flags, recordings)


def _write(folder: Path, records: Sequence[Record]) -> None:
    """Write the advice and the report, and delete records of something else."""
    write_json(folder / ADVICE, {"schema": 2, "advice": _bodies(records)})
    _drop_others(folder / "records", records)
    write_report(folder)


def _recordings(paths: Sequence[Path]) -> list[tuple[str, int, Path]]:
    """Find (target, seed, folder) of each; bare recordings are replicates of one target, numbered in their order."""
    recordings = [place for path in paths for place in find_recordings(path)]
    bare = [path for path in paths if (path / "index.json").is_file()]
    if len(bare) == len(paths):
        task = str(Trajectory(bare[0]).about.get("task", "recording"))
        return [(task, number, path) for number, path in enumerate(bare)]
    names = [(target, seed) for target, seed, _ in recordings]
    if len(set(names)) < len(names):
        raise InputError("two of the recordings have the same target and seed; analyze them one run at a time.")
    return recordings


def _companions(flags: AnalysisFlags, first: Path) -> Companions:
    given = {"null": flags.null, "other": flags.other}
    nulls = {BASES[name]: Trajectory(path) for name, path in given.items() if path is not None}
    for other in nulls.values():
        Trajectory(first).space.require(other.space, f"{first} and {other.folder}")
    if flags.end is None:
        return Companions(nulls)
    stored, trajectory = read_adapter(flags.end), Trajectory(first)
    adapters = [found["adapter"] for name, _ in trajectory.tensors if (found := FACTOR.fullmatch(name))]
    names = [renamed(name, adapters[0]) if adapters else name for name in stored.names]
    by_name = dict(zip(names, stored.tensors, strict=True))
    held = {name: tuple(tensor.shape) for name, tensor in by_name.items()}
    if held != {name: tuple(shape) for name, shape in trajectory.tensors}:
        raise InputError(f"{flags.end} is an adapter of another shape than the recording {first}.")
    flat = torch.cat([by_name[name].double().reshape(-1) for name, _ in trajectory.tensors])
    return Companions(nulls, flat.numpy())


def _drop_others(folder: Path, records: Sequence[Record]) -> None:
    """Delete records of an earlier analysis of something else, which must not stand in this report."""
    kept = {record.name for record in records}
    for path in record_files(folder):
        if path.stem not in kept and _is_analysis_record(path):
            path.unlink()


def _is_analysis_record(path: Path) -> bool:
    """Return whether name and content are those of a record that an analysis writes."""
    if not (path.name.startswith((f"{NAME}-", f"{MEASUREMENT}-")) and path.is_file()):
        return False
    try:
        record = Record.load(path, with_arrays=False)
    except (LineamentError, OSError):
        return False
    return record.measurement in (NAME, MEASUREMENT) and record.name == path.stem


def _is_old_analysis(folder: Path) -> bool:
    """Return whether an earlier version, which marked no folder, left an analysis here: its advice and its records."""
    if (folder / RunFolder(folder).config.name).exists():
        return False  # a run, whose report is not an analysis's
    try:
        body = read_json(folder / ADVICE)
    except (LineamentError, OSError):
        return False
    named = isinstance(body, dict) and body.keys() == {"schema", "advice"}
    return named and any(map(_is_analysis_record, record_files(RunFolder(folder).records)))


def _bodies(records: Sequence[Record]) -> list[dict[str, object]]:
    return [
        {"target": target, **asdict(line), "standing": line.standing}
        for target, own in _by_target(records)
        for line in advise(own)
    ]


def _by_target(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    ordered = sorted(records, key=lambda record: record.target)
    for target, own in groupby(ordered, key=lambda record: record.target):
        yield target, list(own)


def _print(records: Sequence[Record], *, in_words: bool) -> None:
    """Print what recordings say about practice: in sentences, if asked for, and the figures in tables."""
    for target, both in _by_target(records):
        own = analyses(both)
        first = own[0]
        noun = "recording" if len(own) == 1 else "recordings"
        lengths = sorted({record.value("recorded", what="steps") or 0 for record in own})
        steps = f"{lengths[0]:g}" if len(lengths) == 1 else f"{lengths[0]:g} to {lengths[-1]:g}"
        what = f": {len(own)} {noun}, {steps} steps of {first.n_params:,} parameters ({first.space})"
        console.print(Text.assemble((target, "bold"), what))
        for remark in remarks(both):
            console.print(remark, style="dim")
        told = advise(both)
        for sentence in filter(None, (line.sentence for line in told if in_words)):
            console.print(f"* {sentence}")
        for topic, grouped in groupby(told, key=lambda line: (line.topic, line.quantity)):
            lines = list(grouped)
            console.print(_table(topic, lines))
            for reason in dict.fromkeys(line.reason for line in lines if line.reason and not _censored(line)):
                console.print(f"-: {reason}", style="dim")
            for reason in why_untested(lines):
                console.print(f"untested: {reason}", style="dim")


def _table(topic: tuple[str, str], lines: Sequence[Advice]) -> Table:
    units = dict.fromkeys(line.unit for line in lines)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text.assemble(f"{topic[0]}\n", (f"{topic[1]}, {', '.join(units)}", "dim")), overflow="fold")
    for name in ("value", "95 %", "blind", "null"):
        table.add_column(name, justify="right", no_wrap=True)
    tested = any(line.testable for line in lines)
    if tested:
        table.add_column("test", no_wrap=True)
    for line in lines:
        beside = ["-" if number is None else f"{number:.3g}" for number in (line.blind, line.null)]
        standing = [Text(line.standing, STANDING_STYLES.get(line.standing, "dim"))] if tested else []
        table.add_row(line.text, _value(line), _interval(line), *beside, *standing)
    return table


def _censored(line: Advice) -> bool:
    return (line.reason or "").startswith((">", "<"))


def _value(line: Advice) -> str:
    if line.value is None:
        return (line.reason or "").partition(" (")[0] if _censored(line) else "-"
    return f"{line.value:.3g}"


def _interval(line: Advice) -> Text:
    if line.low is None or line.high is None:
        return Text("-") if line.value is None else Text(line.interval or "", "dim")
    note = "" if line.interval != "within the run" else " within run"
    return Text.assemble(f"[{line.low:.3g}, {line.high:.3g}]", (note, "dim"))
