"""One claim over the cells of a sweep, as sweep.json has it: what is drawn, tabled and summed up in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineament.report.estimates import Estimate
from lineament.report.verdicts import claim_title
from lineament.settings.words import short_keys, value_words

Combination = tuple[Any, ...]


@dataclass(frozen=True)
class ClaimGrid:
    """One claim and task in every cell.

    Attributes:
        claim: the claim's id.
        vary: dotted key -> its values, in the order of the grid.
        names: combination of values, in the order of the keys -> name of the cell.
        claims: the same -> the cell's claim in sweep.json; cells that have none are absent.
    """

    claim: str
    task: str
    vary: Mapping[str, tuple[Any, ...]]
    names: Mapping[Combination, str]
    claims: Mapping[Combination, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Return the claim as a sentence."""
        return claim_title(self.claim)

    def estimate(self, combination: Combination) -> Estimate:
        """Return what was measured in one cell, with its interval over seeds."""
        claim = self.claims.get(combination)
        if claim is None:
            return Estimate(None, reason="not measured in this cell")
        if claim["measured"] is None:
            return Estimate(None, reason=claim["reason"])
        return Estimate(claim["measured"], claim["low"], claim["high"], claim["n_seeds"])

    def beside(self, field: str, combination: Combination) -> float | None:
        """Return the `null` or the `blind` value of one cell; None if it is no number."""
        return self.claims.get(combination, {}).get(field)

    def distinct(self, field: str) -> list[Any]:
        """Return the different values of one field over the cells, in their order."""
        return list(dict.fromkeys(claim.get(field) for claim in self.claims.values()))

    def others(self, key: str) -> Iterator[Mapping[str, Any]]:
        """Yield every combination of the values of all other keys."""
        keys = [name for name in self.vary if name != key]
        for values in itertools.product(*(self.vary[name] for name in keys)):
            yield dict(zip(keys, values, strict=True))

    def combination(self, key: str, value: Any, fixed: Mapping[str, Any]) -> Combination:
        """Return the cell with this value of `key`, and with these values of all others."""
        return tuple(value if name == key else fixed[name] for name in self.vary)


def claim_grids(body: Mapping[str, Any]) -> list[ClaimGrid]:
    """Return every claim and task of sweep.json, in the order in which they first appear."""
    vary = {item["key"]: tuple(_fixed(value) for value in item["values"]) for item in body["vary"]}
    names: dict[Combination, str] = {}
    claims: dict[tuple[str, str], dict[Combination, Mapping[str, Any]]] = {}
    for cell in body["cells"]:
        combination = tuple(_fixed(cell["values"][key]) for key in vary)
        names[combination] = cell["name"]
        for claim in cell["claims"]:
            claims.setdefault((claim["id"], claim["task"]), {})[combination] = claim
    return [ClaimGrid(claim, task, vary, names, cells) for (claim, task), cells in claims.items()]


def settings_words(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Write values of dotted keys as `optimizer=sgd, lr=0.001`; `keys` are all that vary."""
    short = short_keys(keys)
    return ", ".join(f"{short[key]}={value_words(value)}" for key, value in values.items())


def _fixed(value: Any) -> Any:
    """Return a value that can stand in a combination."""
    return tuple(value) if isinstance(value, list) else value
