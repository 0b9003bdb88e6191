"""A section of a run's report: what one measurement contributes to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lineament.records import Record
from lineament.report.grids import Grid
from lineament.report.series import Picture, Table
from lineament.report.story import Line
from lineament.report.words import model_words

# (records of the measurement on one target, headline rank) -> pictures or tables; None where nothing was measured.
Pictures = Callable[[Sequence[Record], int], Sequence[Picture | None]]
Tables = Callable[[Sequence[Record], int], Sequence[Table | None]]
# Records of the measurement on one target -> grids of modules.
Grids = Callable[[Sequence[Record]], Sequence[Grid]]
# Records of the measurement on all targets -> sentences for the first screen, and what stands below them.
Story = Callable[[Sequence[Record]], Sequence[Line]]
Shown = TypeVar("Shown")


def _problem(records: Sequence[Record]) -> list[tuple[str, str]]:
    return [("problem", records[0].problem)]


@dataclass(frozen=True)
class Opening:
    """How a page opens that is about one measurement alone.

    Attributes:
        task_word: what a target is called.
        what: what was done, between the model's name and the targets.
        lead: what the page shows.
        judged: whether claims are made about it.
        replicates: what its seeds are called; empty where there is one alone.
        of_model: whether the heading begins with the model's name.
        unnamed: how a target is called that nobody named; the heading leaves it out.
        facts: (name, text) pairs for the head of the page.
        story: sentences of the first screen where no claims are judged; `story_note` says how their bars are read.
    """

    task_word: str
    what: str
    lead: str
    judged: bool = True
    replicates: str = "seeds"
    of_model: bool = True
    unnamed: str = ""
    facts: Callable[[Sequence[Record]], Sequence[tuple[str, str]]] = _problem
    story: Story = lambda records: ()
    story_note: str = ""

    def heading(self, model: str, targets: Sequence[str]) -> str:
        """Return the heading of a page about some targets of a model."""
        named = [target for target in targets if target != self.unnamed]
        what = f"{self.what} {', '.join(named)}" if named else self.what.removesuffix(" of")
        return f"{model_words(model)}: {what}" if self.of_model else f"{what[:1].upper()}{what[1:]}"


def each(*makers: Callable[[Sequence[Record]], Shown]) -> Callable[[Sequence[Record], int], list[Shown]]:
    """Return a function that calls every maker with the records; for makers that need no headline rank."""
    return lambda sources, _: [make(sources) for make in makers]


def _nothing(_sources: Sequence[Record], _rank: int) -> list[None]:
    return []


def _no_grids(_sources: Sequence[Record]) -> list[Grid]:
    return []


@dataclass(frozen=True)
class Section:
    """What the report shows of one measurement.

    Attributes:
        measurement: the measurement whose records it is made from.
        also: other measurements whose records its makers are given too, after those; they get no section of their own.
        title, subtitle: its heading, and what it is about.
        grids: of modules, before all pictures. pictures, tables: in reading order.
        nulls: quantity -> its null in words, where the numbers alone would not tell.
        anchor: its name in links, if not that of the measurement.
        defines: the only quantities whose definitions it lists; all of them where it is empty.
        opening: how the page opens where only this measurement was made; without one it needs damage and recovery.
        warning: a sentence that must be read before all others of the section; None where the records give no cause.
        remarks: sentences after its pictures.
    """

    measurement: str
    title: str
    subtitle: str
    pictures: Pictures = _nothing
    tables: Tables = _nothing
    grids: Grids = _no_grids
    nulls: Mapping[str, str] = field(default_factory=dict)
    anchor: str = ""
    also: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    opening: Opening | None = None
    warning: Callable[[Sequence[Record]], str | None] = lambda sources: None
    remarks: Callable[[Sequence[Record]], Sequence[str]] = lambda sources: ()


@dataclass(frozen=True)
class Definition:
    """What a quantity is: its sentence, units and null."""

    quantity: str
    text: str
    unit: str
    null: str


def definitions(section: Section, sources: Sequence[Record]) -> list[Definition]:
    """Return the definitions of the quantities of some records, each once."""
    texts = {name: text for record in sources for name, text in record.definitions.items()}
    return [
        Definition(name, text, _units(sources, name), section.nulls.get(name) or _null(sources, name))
        for name, text in texts.items()
        if not section.defines or name in section.defines
    ]


def missing_reasons(sources: Sequence[Record]) -> list[str]:
    """Return why a measurement has nothing to draw, per seed; each reason once per quantity."""
    sentences = [
        f"Seed {record.seed}: {quantity.name.replace('_', ' ')} is undefined: {quantity.reason}."
        for record in sources
        for quantity in record.quantities
        if quantity.value is None and quantity.reason
    ]
    return list(dict.fromkeys(sentences))


def _units(sources: Sequence[Record], name: str) -> str:
    units = {quantity.unit for record in sources for quantity in record.select(name)}
    return ", ".join(sorted(units)) or "not measured in this run"


def _null(sources: Sequence[Record], name: str) -> str:
    beside = any(quantity.null is not None for record in sources for quantity in record.select(name))
    return "given beside each value in the records" if beside else "none"
