"""What a folder is, told by the file that a folder of its kind begins with; needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lineament.errors import InputError
from lineament.files.folders import IDENTITY, MARKER, Kind, is_marked
from lineament.files.schemas import read_ours
from lineament.records import load_records, record_files
from lineament.runs.folder import SWEEP_FILE, RunFolder
from lineament.runs.sweep.folder import SweepFolder

# Files that a folder begins with, one of which is the folder's; a sweep's cells are runs, and a run has all of its own.
CONFIG, REQUEST, INDEX = "config.toml", "request.json", "index.json"
# Marked folders that hold results: an adapter and the cache are none.
MARKED: tuple[Kind, ...] = ("analysis", "composition")
# What tells more of a folder that holds no verdicts.
INSTEAD: Mapping[str, str] = {
    "sweep": "Give the folder of one of its cells, below {0}/cells; `lineament claims {0}` prints the verdicts of all.",
    "analysis": "`lineament advise RECORDING` prints what it says, `lineament report {0}` writes its page.",
    "composition": "`lineament report {0}` writes its page, `lineament export {0} --csv` prints its figures.",
    "search": "`lineament adapters {0}/winner` tells of the adapter that it found.",
    "recording": "`lineament advise {0}` measures and prints what it says.",
    "run": "It is not finished: the same `lineament run` with --resume goes on.",
    "measure": "Measure into it again.",
}


@dataclass(frozen=True)
class Found:
    """A folder of results, as a row of `lineament runs` tells of it.

    Attributes:
        kind: run, sweep, measure (what `lineament.measure` wrote), analysis, composition, search or recording.
        done: how far it is, or how much it holds.
    """

    path: Path
    kind: str
    problem: str = "-"
    model: str = "-"
    seeds: str = "-"
    done: str = "-"


def kind_of(folder: Path) -> str | None:
    """Return the kind of a folder, as `Found` names it; None for one that holds no results of Lineament's."""
    for name, kind in ((SWEEP_FILE, "sweep"), (CONFIG, "run"), (IDENTITY, "measure"), (REQUEST, "search")):
        if (folder / name).is_file():
            return kind
    marked = next((kind for kind in MARKED if is_marked(folder, kind)), None)
    return marked or ("recording" if (folder / INDEX).is_file() else None)


def no_verdicts(folder: Path) -> InputError:
    """Make the error for a folder without claims.json, by what the folder is."""
    kind = kind_of(folder)
    if kind is None:
        return InputError(f"{folder} holds no claims.json, so it is no finished run. `lineament runs` lists runs.")
    what = "what lineament.measure began" if kind == "measure" else f"a{'n' * (kind[0] in 'aeiou')} {kind}"
    return InputError(f"{folder} is {what} and holds no claims.json. {INSTEAD[kind].format(folder)}")


def found_below(root: Path) -> Iterator[Found]:
    """Yield every folder of results below a folder, in the order of their paths; those that cannot be read are named.

    What a run recorded is part of the run.
    """
    beginnings = {SWEEP_FILE, CONFIG, IDENTITY, REQUEST, INDEX, MARKER}
    for folder, below, files in os.walk(root):
        below.sort()
        path = Path(folder)
        kind = kind_of(path) if beginnings & set(files) else None
        if kind is None or (kind == "recording" and kind_of(path.parent.parent) in ("run", "measure")):
            continue
        try:
            yield ROWS[kind](path, kind)
        except InputError as error:  # somebody else's file of that name, or a damaged one: the others are still shown
            print(f"left out: {error}", file=sys.stderr)


def _run(path: Path, kind: str) -> Found:
    folder = RunFolder(path)
    settings, jobs = folder.settings(), folder.jobs()
    done = sum(job["status"] == "done" for job in jobs.values())
    return Found(path, kind, settings.problem, settings.model.name, str(settings.seeds), f"{done}/{len(jobs)} jobs")


def _sweep(path: Path, kind: str) -> Found:
    grid = SweepFolder(path).grid()
    base = grid.base
    return Found(path, kind, base.problem, base.model.name, str(base.seeds), _counted(len(grid), "cell"))


def _measure(path: Path, kind: str) -> Found:
    body = read_ours(path / IDENTITY, {1: "identity"}, "Measure into another folder.")
    files = record_files(path / "records")
    seeds = {file.stem.rpartition("-seed")[2] for file in files}
    model = str(body["model"]).partition(" with weights")[0]
    return Found(path, kind, ", ".join(body["tasks"]), model, str(len(seeds)), _counted(len(files), "record"))


def _of_records(path: Path, kind: str) -> Found:
    records = load_records(path / "records", with_arrays=False)
    if not records:
        return Found(path, kind, done="0 records")
    first = records[0]
    seeds = {record.seed for record in records}
    return Found(path, kind, first.target, first.model, str(len(seeds)), _counted(len(records), "record"))


def _search(path: Path, kind: str) -> Found:
    body = read_ours(path / REQUEST, {1: "request"}, "Search into another folder.")
    done = "finished" if (path / "search.json").is_file() else "not finished"
    return Found(path, kind, str(body["task"]), done=done, seeds="1")


def _recording(path: Path, kind: str) -> Found:
    body = read_ours(path / INDEX, {1: "recording-1", 2: "recording"}, "Record it again.")
    about = body.get("about", {})
    model = str(about.get("model", body.get("model", "-")))
    return Found(path, kind, str(about.get("task", "-")), model, "1", _counted(body["n_steps"], "update"))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


ROWS: Mapping[str, Callable[[Path, str], Found]] = {
    "run": _run,
    "sweep": _sweep,
    "measure": _measure,
    "analysis": _of_records,
    "composition": _of_records,
    "search": _search,
    "recording": _recording,
}
