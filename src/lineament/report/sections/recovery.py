"""Damage and recovery: what the damage did to every task, and the training that undid it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.records import Record
from lineament.report.estimates import (
    Estimate,
    estimate_positive,
    label_texts,
    label_values,
    number,
    range_text,
    select,
)
from lineament.report.sections.section import Opening, Section, each
from lineament.report.series import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    Table,
)
from lineament.report.words import POINTS

SEED_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SEED_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, GREY, BLACK)
CAPTION = (
    "One line per seed; the star marks T, the number of steps after which every seed is judged. Training and recording "
    "go on to 1.2 T."
)


def curves_picture(records: Sequence[Record]) -> Picture | None:
    """Draw evaluation loss and accuracy along the recovery, one line per seed, with T marked."""
    sources = [record for record in records if "recovery_loss" in record.arrays]
    if not sources:
        return None
    loss = _curve_panel(sources, "recovery_loss", "loss", "evaluation loss (nats per target token)")
    accuracy = _curve_panel(sources, "recovery_accuracy", "accuracy", "evaluation accuracy (fraction)")
    notes = [_steps_note(sources, "steps_to_recovery", "Steps until accuracy stays at its threshold")]
    notes.append(_steps_note(sources, "loss_step", "T_loss, where 95 % of the loss gap is closed"))
    title = "How training recovered the damaged task"
    return Picture("curves", title, CAPTION, [accuracy, loss], sources, notes)


def _steps_note(sources: Sequence[Record], name: str, what: str) -> str:
    steps = estimate_positive(select(sources, name))
    return f"{what}: {steps.text}{f' ({steps.reason})' if steps.mean and steps.reason else ''}."


def evaluation_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate accuracy and loss of every task at the four points."""
    tasks = label_texts(sources, "evaluation", "task")
    if not tasks:
        return None
    points = [point for point in POINTS if point in label_values(sources, "evaluation", "point")]

    def cell(task: str, point: str, statistic: str) -> str:
        return range_text(select(sources, "evaluation", task=task, point=point, statistic=statistic))

    target = sources[0].target
    rows = [
        (f"{task} (damaged)" if task == target else task, statistic, *(cell(task, p, statistic) for p in points))
        for statistic in ("accuracy", "loss")
        for task in tasks
    ]
    note = "Accuracy is a fraction, loss is in nats per target token; mean over seeds, and the lowest and highest seed."
    columns = ("task", "statistic", *(POINTS[point] for point in points))
    return Table("What damage and recovery did to every task", columns, rows, note)


def not_recovered(records: Sequence[Record]) -> list[str]:
    """Return a sentence for every seed that did not recover."""
    return [
        f"Seed {record.seed}: {steps.reason or 'not recovered'}. It has no capture and no drift."
        for record in records
        for steps in record.select("recovery_steps")
        if record.measurement == SECTION.measurement and steps.value is None
    ]


def _curve_panel(sources: Sequence[Record], array: str, name: str, y_title: str) -> Panel:
    fraction = name == "accuracy"
    lines = [line for i, r in enumerate(sources) for line in _curve_lines(r, r.arrays[array], i)]
    return Panel(name, "recovery step", y_title, lines, y_log=not fraction, fraction=fraction, x_name="step")


def _curve_lines(record: Record, values: np.ndarray, index: int) -> list[Line]:
    end = record.value("recovery_steps")
    style = Style(SEED_COLORS[index % len(SEED_COLORS)], SEED_DASHES[index % len(SEED_DASHES)], "star")
    label = f"seed {record.seed}: " + (f"T = {number(end)}" if end is not None else "not recovered")
    points = [Estimate(float(value), n_seeds=1) for value in values]
    key, steps = f"seed-{record.seed}", _evaluated(record, len(values))
    lines = [Line(key, label, "seeds", style, steps, points, mode="plain")]
    if end in steps:
        lines.append(Line(key, f"{label} (T)", "seeds", style, [end], [points[steps.index(int(end))]], mode="dots"))
    return lines


def _evaluated(record: Record, n_values: int) -> list[int]:
    """Return the steps of a curve's values; records of schema 1 hold one for every step."""
    steps = record.arrays.get("evaluated_steps")
    return list(range(n_values)) if steps is None else [int(step) for step in steps]


OPENING = Opening(
    "Damaged task",
    "damaged and recovered on",
    "A model that knows several tasks was damaged on one of them and then trained until it recovered. This page shows "
    "which directions in its weights the recovery moved along, whether they could have been known beforehand, and how "
    "long they stay useful.",
)
SECTION = Section(
    "basis_capture",
    "Damage and recovery",
    "what the damage did to every task, and the training that undid it",
    pictures=each(curves_picture),
    tables=each(evaluation_table),
    anchor="recovery",
    defines=("evaluation", "recovery_steps"),
)
