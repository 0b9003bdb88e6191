"""Settings `task.*`: which tasks exist, on which data, and which one is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lineament.settings.fields import AtLeastTwo, PositiveInt, Text, setting

# How `task.data` names a data set of the Hugging Face hub: hf:NAME[:CONFIG][:SPLIT].
HUB = "hf:"


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks exist and which one is damaged."""

    names: tuple[Text, ...] = setting((), "Tasks of the problem; empty means all of them.")
    targets: tuple[Text, ...] = setting(
        (), "Tasks to damage and recover, one study each; empty means the problem's default."
    )
    data: Text = setting(
        "",
        "File (JSONL, JSON, CSV, Parquet, text), folder saved by datasets or hf:NAME[:CONFIG][:SPLIT] that becomes one "
        "more task, named like it (lm only).",
    )
    text_tokens: AtLeastTwo = setting(64, "Length of the blocks that running text is cut into (lm only).", "tokens")
    evaluation_examples: PositiveInt = setting(
        256, "Size of each of a task's three fixed sets: validation, evaluation and held-out.", "examples"
    )


def data_name(source: str) -> str:
    """Return the name of the task that a `task.data` becomes."""
    return source.removeprefix(HUB).split(":")[0].rsplit("/", 1)[-1] if source.startswith(HUB) else Path(source).stem
