"""Where a run's time goes, from the progress lines that `lineament run --log-file FILE` wrote.

    lineament run synthetic --preset quick --seeds 1 --out runs/timed --log-file progress.txt
    python benchmarks/stage_times.py progress.txt

A stage's time is from its first line to the next stage's first line, per seed; lines are written when a stage begins.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

LINE = re.compile(r"\[\s*(?P<s>\d+) s\] seed (?P<seed>\d+): (?P<what>.+?) \((?P<done>\d+)/(?P<total>\d+)\)")
# Progress text -> stage of the table; the first that matches.
STAGES = {
    "training the base": "base model",
    "operating point": "operating point",
    "loading": "loading the model",
    "damaging": "damage",
    "recovering": "recovery, with an evaluation after every step",
    "gradient rank": "gradient rank",
    "basis": "bases",
    "training inside": "training inside subspaces",
    "grid": "step size by damage grid",
    "drift": "drift",
    "done": "done",
}


def stage_times(lines: list[str]) -> dict[str, dict[str, float]]:
    """Seed -> stage -> seconds."""
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    last: dict[str, tuple[str, float]] = {}
    for line in lines:
        found = LINE.search(line)
        if not found:
            continue  # a warning of a library
        seed, now = found["seed"], float(found["s"])
        stage = next((name for key, name in STAGES.items() if key in found["what"]), found["what"])
        if seed in last:
            times[seed][last[seed][0]] += now - last[seed][1]
        last[seed] = (stage, now)
    return times


def main() -> None:
    times = stage_times(Path(sys.argv[1]).read_text().splitlines())
    seeds = sorted(times)
    stages = list(dict.fromkeys(stage for seed in seeds for stage in times[seed]))
    print(f"| stage | {' | '.join(f'seed {seed}, s' for seed in seeds)} | share |\n|---|{'---|' * (len(seeds) + 1)}")
    total = sum(sum(times[seed].values()) for seed in seeds)
    for stage in stages:
        cells = " | ".join(f"{times[seed][stage]:.0f}" for seed in seeds)
        print(f"| {stage} | {cells} | {sum(times[seed][stage] for seed in seeds) / total:.0%} |")


if __name__ == "__main__":
    main()
