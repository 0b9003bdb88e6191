"""Examples of a user's file for a language model that is measured on them: drawn at random, then encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lineament.errors import InputError
from lineament.problems.labelled_data import Item, LabelledData, Passage
from lineament.problems.language_model import MAX_TARGETS_AT_ONCE, LanguageModelProblem
from lineament.problems.problem import Batch

# Running text is cut into blocks of so many tokens.
BLOCK = 128


@dataclass(frozen=True)
class DrawnExamples:
    """Examples of a file in random order, not encoded yet.

    Attributes:
        items: each with the line that it stands on, 0 for a block of running text.
        notes: what was done with the rows that a user may not expect.
    """

    data: LabelledData
    items: tuple[tuple[Any, int], ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> list[str]:
        """The group of each example; rows of one group belong together."""
        return [item.group for item, _ in self.items]


def draw_from(
    problem: LanguageModelProblem, data: LabelledData, n: int, generator: np.random.Generator, block: int = BLOCK
) -> DrawnExamples:
    """Draw up to `n` examples, running text cut into blocks of so many tokens."""
    found, notes = _listed(problem, data, block)
    chosen = tuple(found[i] for i in generator.permutation(len(found))[:n])
    return DrawnExamples(data, chosen, (*data.notes, *notes))


def encoded(problem: LanguageModelProblem, drawn: DrawnExamples) -> Batch:
    """Encode drawn examples; the problem then takes no more of them at once than fit into memory.

    Raises:
        InputError: an example that the model cannot take; names file and line.
    """
    batch = Batch.join([_encoded(problem, drawn.data, *one) for one in drawn.items])
    problem.chunk = max(1, min(problem.chunk, MAX_TARGETS_AT_ONCE // batch.targets.shape[1]))
    return batch


def lines_in_both(data: LabelledData, other: LabelledData) -> list[int]:
    """Return the lines of some data whose example stands in other data too, whatever its group is called."""
    known = {_bare(item) for item in other.items}
    return [line for item, line in zip(data.items, data.lines, strict=True) if _bare(item) in known]


def _bare(item: Item) -> Item:
    return replace(item, group="")


def _listed(
    problem: LanguageModelProblem, data: LabelledData, block: int
) -> tuple[Sequence[tuple[Any, int]], tuple[str, ...]]:
    """Return (example, line) of every row, running text cut into blocks."""
    passages = [item for item in data.items if isinstance(item, Passage)]
    if not passages:
        return list(zip(data.items, data.lines, strict=True)), ()
    length = min(block, problem.encoder.most_tokens or block)
    blocks, words = problem.encoder.blocks(passages, length)
    return [(block, 0) for block in blocks], (f"{data.path}: {words}",)


def _encoded(problem: LanguageModelProblem, data: LabelledData, item: Any, line: int) -> Batch:
    try:
        return problem.encode([item])
    except InputError as error:
        where = f"{data.path}, line {line}" if line else str(data.path)
        raise InputError(f"{where}: {error}") from None
