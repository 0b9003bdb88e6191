"""`lineament compose`: two adapters and their data to a prediction, a measurement, a report and a merged adapter."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

from lineament.commands.compose.flags import Compose
from lineament.commands.compose.inputs import (
    Examples,
    base_of,
    draw_examples,
    load_base,
    read_adapters,
    read_data,
    require_curvature,
)
from lineament.commands.compose.tables import print_composition
from lineament.commands.terminal import console, counted, job_progress, say_end
from lineament.commands.time_left import Whole
from lineament.errors import InputError
from lineament.files.folders import mark, require_ours, require_writable
from lineament.files.writing import delete_leftovers
from lineament.merging.composition_record import NAME, About, composition_record, prediction_record
from lineament.merging.foretold import Progress, foretell
from lineament.merging.interference import Composition, interference
from lineament.merging.options import CompositionOptions
from lineament.merging.order import MOST_PARAMETERS, Kappa, changed_weights, order_kappas
from lineament.merging.scales import best_scales
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.stored_adapters import StoredAdapter
from lineament.records import Label, Record, record_files
from lineament.report.page import write_report
from lineament.vectors.adapter_algebra import combine_adapters, save_stored_adapter

MERGED, RECORDS = "adapter", "records"


def compose(flags: Compose) -> int:
    """Foretell, measure, print, and write everything at the end; return the exit code."""
    flags.require_usable()
    _require_own_folder(flags)
    adapters, data = read_adapters(flags), read_data(flags)
    model, notes = base_of(flags, adapters)
    options = CompositionOptions(flags.scale_values(), flags.draws, flags.seed)
    whole = Whole()
    with job_progress(flags.quiet, whole=whole) as show:
        progress = partial(show, _title(flags))
        progress(f"loading {model}", 0, 1)
        problem = load_base(flags, model, adapters)
        drawn = [
            draw_examples(problem, one, flags.examples, options.streams.child("data", place))
            for place, one in enumerate(data)
        ]
        require_curvature(problem, adapters, drawn[0].batch)
        about = _about(flags, model, problem, adapters, drawn, progress)
        work = foretell if flags.predict_only else interference
        found = work(
            problem,
            adapters,
            (drawn[0].batch, drawn[1].batch),
            options,
            validation=(drawn[0].validation, drawn[1].validation),
            progress=_measuring(counted(show, whole, _title(flags)), whole),
        )
    scales = None
    if isinstance(found, Composition):
        record, scales = composition_record(found, problem, about), _merged_scales(flags, found)
    else:
        record = prediction_record(found, problem, about)
    _write(flags.out, record, combine_adapters(adapters, scales) if scales else None)
    print_composition(record)
    for note in dict.fromkeys((*notes, *(note for one in drawn for note in one.notes))):
        console.print(f"note: {note}.")
    _print_end(flags, scales)
    return 0


def _merged_scales(flags: Compose, found: Composition) -> tuple[float, float]:
    """Return the scales of the sum that is written."""
    best = best_scales(found)
    return flags.merged_at() or (best.first, best.second)


def _require_own_folder(flags: Compose) -> None:
    """Refuse a folder that may not be written into.

    Raises:
        InputError: it holds an adapter that is composed, something else, or what --predict-only would replace.
    """
    for folder in (flags.first, flags.second):
        if folder.absolute() == (flags.out / MERGED).absolute():
            raise InputError(
                f"{folder} is where --out {flags.out} would write the merged adapter; choose another --out."
            )
    require_ours(flags.out, "composition")
    require_writable(flags.out)
    if flags.predict_only and (flags.out / MERGED).exists():
        raise InputError(
            f"{flags.out} holds a composition that was measured, whose report --predict-only would replace; choose "
            "another --out."
        )


def _measuring(progress: Progress, whole: Whole) -> Progress:
    """Return the progress of the measurement, most of the work, from whose beginning time counts."""
    whole.begin()
    return lambda what, done, total: progress(f"measuring {what}", done, total)


def _title(flags: Compose) -> str:
    return " and ".join(adapter_names(flags.first, flags.second))


def adapter_names(first: Path, second: Path) -> tuple[str, str]:
    """Return the folders' names, with those above them where both are alike."""
    one, other = first.absolute(), second.absolute()
    names = one.name, other.name
    if names[0] == names[1]:
        names = f"{one.parent.name}/{one.name}", f"{other.parent.name}/{other.name}"
    return (f"{names[0]} (A)", f"{names[1]} (B)") if names[0] == names[1] else names


def _about(
    flags: Compose,
    model: str,
    problem: LanguageModelProblem,
    adapters: tuple[StoredAdapter, StoredAdapter],
    drawn: list[Examples],
    progress: Progress,
) -> About:
    """Name everything, and measure whether order matters, which is refused with a reason where it takes too much."""
    names = adapter_names(flags.first, flags.second)
    data = drawn[0].name, drawn[1].name
    config: dict[str, Label] = {"model": model, "examples": flags.examples, "draws": flags.draws}
    n = sum(changed_weights(problem.model, adapters).values())
    why = f"the adapters change weights of {n:,} parameters, more than the {MOST_PARAMETERS:,} that fit into memory"
    kappas: list[Kappa] = []
    if flags.no_order:
        why = "--no-order was given"
    elif 0 < n <= MOST_PARAMETERS:
        measuring = partial(progress, "measuring whether order matters")
        measuring(0, 1)
        kappas = order_kappas(problem, adapters, [one.batch for one in drawn], flags.order_examples, measuring)
    return About(names, data, kappas, why, config)


def _write(out: Path, record: Record, merged: StoredAdapter | None) -> None:
    """Write everything at once, each file whole; an earlier composition's record goes."""
    mark(out, "composition")
    delete_leftovers(out)
    if merged is not None:
        save_stored_adapter(merged, out / MERGED)
    for path in record_files(out / RECORDS):
        if path.stem.startswith(f"{NAME}-"):
            path.unlink()
    record.save(out / RECORDS)
    write_report(out)


def _print_end(flags: Compose, scales: tuple[float, float] | None) -> None:
    report = flags.out / "report.html"
    if scales is None:
        say_end(flags.quiet, report, ["the same command without --predict-only  # tries the sums, writes the best one"])
        return
    chosen = "" if flags.at else ", which validation examples chose"
    console.print(f"merged adapter, {scales[0]:g} A + {scales[1]:g} B{chosen}: {flags.out / MERGED}", soft_wrap=True)
    merged = shlex.quote(str(flags.out / MERGED))
    say_end(flags.quiet, report, [f"lineament adapters {merged}  # what it holds; --truncate cuts it"])
