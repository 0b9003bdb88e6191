"""When a plane is due for a refresh: after so many steps, or when it holds too little of the gradients.

The rule by retention (protocol, section 3) uses gradients that are there anyway. Of each step's gradient the plane
holds the energy e = |U^T g|^2 out of |g|^2. After a refresh, the share over the first `window` later steps,
sum e / sum |g|^2, is what a fresh plane holds: these are other gradients than the plane was made of. A refresh is due
as soon as the share over the last `window` steps has fallen to below `share` times that, by more than one standard
error of the ratio. The two windows do not overlap, so a plane lives for at least 2 `window` steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lineament.errors import InputError


@dataclass(frozen=True)
class RetentionRule:
    """When the energy that a plane still holds says that it is due.

    Attributes:
        share: of what the plane held just after the last refresh.
        window: steps over which both are taken.
    """

    share: float = 0.9
    window: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(
                f"a plane is refreshed at the share {self.share:g} of its beginnings; take one between 0 and 1."
            )
        if self.window < 2:
            raise InputError(f"the window of retention is {self.window} steps; give at least 2, for a standard error.")


Refresh = int | RetentionRule | Literal["retention", "never"] | None


class RefreshClock:
    """Counts steps and energies since the last refresh.

    Args:
        refresh: steps between two refreshes; "retention", or a rule of it with other numbers; or None or "never".
    """

    def __init__(self, refresh: Refresh) -> None:
        by_rule = isinstance(refresh, RetentionRule)
        known = by_rule or refresh in (None, "never", "retention") or (isinstance(refresh, int) and refresh >= 1)
        if not known or isinstance(refresh, bool):
            raise InputError(
                f'refresh is {refresh!r}; give a number of steps (at least 1), "retention", or None for no refresh.'
            )
        self.every = refresh if isinstance(refresh, int) else None
        self.by_retention = by_rule or refresh == "retention"
        self.rule = refresh if isinstance(refresh, RetentionRule) else RetentionRule()
        self.age = 0
        self._fresh: list[tuple[float, float]] = []
        self._last: list[tuple[float, float]] = []

    @property
    def refreshes(self) -> bool:
        """Whether planes are refreshed at all."""
        return self.every is not None or self.by_retention

    def due(self) -> bool:
        """Whether the plane is to be refreshed before the step that comes."""
        if self.every is not None:
            return self.age >= self.every
        kept = self.kept()
        return kept is not None and kept[0] + kept[1] < self.rule.share

    def kept(self) -> tuple[float, float] | None:
        """Return the share that is kept of what the fresh plane held, and its standard error; None if not known."""
        if len(self._fresh) < self.rule.window or len(self._last) < self.rule.window:
            return None
        (fresh, fresh_se), (last, last_se) = (_share(window) for window in (self._fresh, self._last))
        if fresh == 0:
            return None
        ratio = last / fresh
        return ratio, math.hypot(last_se / fresh, ratio * fresh_se / fresh)

    def restart(self) -> None:
        """Forget the old plane: a new one was taken before the step that comes."""
        self.age, self._fresh, self._last = 0, [], []

    def tick(self, inside: float | None = None, total: float | None = None) -> None:
        """Count a step, with the energy of its gradient inside the plane and in all.

        Leave the energies out for the gradient that a plane was made of: it holds more of it than of any other.
        """
        self.age += 1
        if inside is None or total is None or not (math.isfinite(total) and total > 0):
            return
        if len(self._fresh) < self.rule.window:
            self._fresh.append((inside, total))
        else:
            self._last = [*self._last, (inside, total)][-self.rule.window :]

    def state(self) -> dict[str, Any]:
        """Return plain values from which `load` goes on."""
        return {"age": self.age, "fresh": list(self._fresh), "last": list(self._last)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.age = int(state["age"])
        self._fresh, self._last = ([(float(e), float(n)) for e, n in state[key]] for key in ("fresh", "last"))


def _share(energies: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return sum e / sum n and its standard error, that of a ratio of means."""
    total = sum(n for _, n in energies)
    share = sum(e for e, _ in energies) / total
    scatter = sum((e - share * n) ** 2 for e, n in energies)
    count = len(energies)
    return share, math.sqrt(scatter * count / (count - 1)) / total
