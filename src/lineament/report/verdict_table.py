"""The table of verdicts as a piece of HTML without style or script, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.verdict import Claim
from lineament.report.rendering import template
from lineament.report.verdicts import verdict_counts, verdict_row

MAX_ROWS = 200


def verdict_table(title: str, claims: Sequence[tuple[str, Claim]]) -> str:
    """Return a table of verdicts in the words of the report; whatever comes from outside is escaped.

    Args:
        claims: (cell, claim) pairs; of a run the cell is empty.
    """
    shown = claims[:MAX_ROWS]
    text: str = template("notebook.html.j2").render(
        title=title,
        counts=verdict_counts(claim.verdict for _, claim in claims),
        claims=[(cell, verdict_row(claim)) for cell, claim in shown],
        has_cells=any(cell for cell, _ in claims),
        has_tasks=len({claim.task for _, claim in claims}) > 1,
        has_blind=any(claim.blind is not None for _, claim in claims),
        n_more=len(claims) - len(shown),
    )
    return text
