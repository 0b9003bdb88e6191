"""The table of measured over predicted gains of a run with `random_search`: mean and 95 % interval over seeds.

python benchmarks/search_ratios.py RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

from lineament.claims.intervals import over_seeds
from lineament.records import Record, load_records

COUNTS = (2, 16, 64, 256, 1024)
ROWS = (("ratio_linear", 0.01), ("ratio_second_order", 0.01), ("ratio_second_order", 0.25), ("ratio_second_order", 0.5))


def cell(records: list[Record], quantity: str, **labels: str | int | float) -> str:
    values = [v for r in records if (v := r.value(quantity, **labels)) is not None]
    if not values:
        return "-"
    found = over_seeds(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} ± {(found.high - found.low) / 2:.3f}"


def main() -> None:
    records = [r for r in load_records(Path(sys.argv[1]) / "records") if r.measurement == "random_search"]
    spaces = list(dict.fromkeys(str(f.labels["space"]) for f in records[0].select("gain")))
    print(f"| figure | cost | space | {' | '.join(f'N = {n}' for n in COUNTS)} |\n|---|---|---|{'---|' * len(COUNTS)}")
    for quantity, cost in ROWS:
        for space in spaces:
            cells = [cell(records, quantity, space=space, cost=cost, n=n) for n in COUNTS]
            print(
                f"| {quantity.removeprefix('ratio_').replace('_', ' ')} | {cost:.0%} | {space} | {' | '.join(cells)} |"
            )


if __name__ == "__main__":
    main()
