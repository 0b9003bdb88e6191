"""Write the table of concepts/claims.md from the rules of the claims.

python docs/make_claims.py            rewrite the page
python docs/make_claims.py --check    exit 1 if the page is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from lineament.claims.registry import CLAIMS
from lineament.claims.rule import ClaimRule

PAGE = Path(__file__).parent / "concepts" / "claims.md"
START, END = "<!-- generated: claims -->", "<!-- end: claims -->"
COLUMNS = ("claim", "states", "measured", "unit", "needed", "paper")


def claims_table() -> str:
    """Return one row per claim, in the order in which claims are listed."""
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*head, *map(_row, CLAIMS.values())])


def _row(rule: ClaimRule) -> str:
    measured = f"{rule.definition}; at the headline rank" if rule.at_rank else rule.definition
    paper = "" if rule.paper is None else f"{rule.paper:g}"
    needed = "; ".join(part.bounds.words(part.name) for part in rule.requirements)
    cells = (f"`{rule.id}`", rule.title, measured, rule.unit, needed, paper)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page_text(text: str) -> str:
    """Return the page with its generated table made anew."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{claims_table()}\n\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    """Rewrite the page, or with --check only say whether it is up to date."""
    old = PAGE.read_text()
    new = page_text(old)
    if "--check" in arguments:
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
