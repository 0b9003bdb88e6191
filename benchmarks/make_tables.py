"""Put the claims of run folders into the README between its markers.

python benchmarks/make_tables.py synthetic=runs/demo lm=runs/lm-quick
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
WORDS = {"supported": "supported", "not_supported": "**not supported**", "inconclusive": "inconclusive"}


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.2f}"


def table(run: Path) -> str:
    body = json.loads((run / "claims.json").read_text())
    n_seeds, first = body["n_seeds"], body["claims"][0]
    seeds = "1 seed, so no interval" if n_seeds == 1 else f"{n_seeds} seeds"
    tasks = list(dict.fromkeys(claim["task"] for claim in body["claims"]))
    several = len(tasks) > 1
    named = ("tasks " if several else "task ") + ", ".join(f"`{task}`" for task in tasks)
    columns = ["claim", *(["task"] if several else []), "measured", "interval", "null", "paper", "verdict"]
    lines = [
        f"{body['model']}, {named}, {first['space']}, {seeds}:",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for c in body["claims"]:
        interval = f"{number(c['low'])} to {number(c['high'])}" if c["low"] is not None else "-"
        row = [
            f"`{c['id']}`",
            *([c["task"]] if several else []),
            number(c["measured"]),
            interval,
            number(c["null"]),
            number(c["paper"]),
            WORDS[c["verdict"]],
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    text = README.read_text()
    for argument in sys.argv[1:]:
        name, _, run = argument.partition("=")
        start, end = f"<!-- claims:{name} -->", "<!-- end -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{table(Path(run))}\n{end}{after}"
    README.write_text(text)


if __name__ == "__main__":
    main()
