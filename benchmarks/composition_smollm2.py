"""Three adapters of SmolLM2-135M, one for each statement task, and `lineament compose` on their three pairs.

    python benchmarks/composition_smollm2.py OUT [--steps 60] [--examples 32]

Adapters are trained from random factors of their own on the task's training split, and written to OUT/adapters with the
held-out statements as OUT/TASK.jsonl; what is there already is not made again. Prints the interference of every pair on
both data sets beside what curvature and angles say, as a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import torch
from scipy import stats

from lineament import Record, Streams, read_adapter
from lineament.cli import main as lineament
from lineament.merging.overlaps import compare_adapters
from lineament.problems.adapters import save_adapter
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.statements import STATEMENT_TASKS
from lineament.settings.presets import resolve
from lineament.study.training import task_vector

TASKS = tuple(STATEMENT_TASKS)
SIDES = ("first", "second")


def train(out: Path, steps: int) -> None:
    keys = {"threads": 1, "measurement.task_vector_steps": steps, "operating.lr": 1e-3}
    settings = resolve("lm", "quick", [("the benchmark", keys)])
    problem, streams = LanguageModelProblem(settings, 0), Streams(0).child("composition benchmark")
    space = problem.parameters
    for task in TASKS:
        if (out / "adapters" / task / "adapter_config.json").exists():
            continue
        theta, started = space.read(torch.float64), time.monotonic()
        generator = streams.generator("factors", task)
        for pair in factor_pairs(space):  # as PEFT draws A
            bound = 1 / math.sqrt(pair.a_shape[1])
            theta[pair.a] = torch.from_numpy(generator.uniform(-bound, bound, pair.a.stop - pair.a.start))
        held_out = problem.fixed(task, "held_out")
        with space.temporarily(theta):
            before = problem.evaluate(held_out)
            end = theta + task_vector(problem, task, settings, streams.child("training", task))
            space.write(end)
            after = problem.evaluate(held_out)
            save_adapter(space, end, out / "adapters" / task)
        rows = [{"statement": s.text, "label": s.label} for s in problem.statements(task).held_out]
        (out / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        seconds = time.monotonic() - started
        print(
            f"{task}: held-out loss {before.loss:.3f} to {after.loss:.3f}, accuracy {before.accuracy:.2f} to "
            f"{after.accuracy:.2f}, {seconds:.0f} s"
        )


def composed(out: Path, pair: tuple[str, str], examples: int) -> Record:
    folder = out / f"{pair[0]}-{pair[1]}"
    if not (folder / "report.html").exists():
        words = ["compose", *(str(out / "adapters" / task) for task in pair), "--out", str(folder)]
        words += [word for task in pair for word in ("--data", str(out / f"{task}.jsonl"))]
        words += ["--examples", str(examples), "--scales", "0.25,0.5,0.75,1,1.25", "--threads", "1", "--quiet"]
        started = time.monotonic()
        if lineament(words) != 0:
            raise SystemExit(1)
        print(f"{time.monotonic() - started:.0f} s")
    return Record.load(next((folder / "records").glob("*.json")))


def value_of(record: Record, name: str, side: str, kind: str) -> float:
    found = (q for q in record.select(name, data=side, kind=kind) if "end" not in q.labels)
    return next(found).value or math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--examples", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train(given.out, given.steps)
    lines = [
        "| pair | data | added by the other | foretold at own | I(1, 1) | A'HB at the base | A'HB half-way | "
        "cosine of dW | left overlap (chance) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    seen: dict[str, list[float]] = {"measured": [], "predicted": [], "middle": []}
    for pair in itertools.combinations(TASKS, 2):
        record = composed(given.out, pair, given.examples)
        found = compare_adapters([read_adapter(given.out / "adapters" / task) for task in pair]).pairs[0, 1]
        left = found.mean("left")
        assert left is not None
        for side, task in zip(SIDES, pair, strict=True):
            values = [value_of(record, "interference_at_one", side, kind) for kind in seen]
            costs = [value_of(record, "cost", side, kind) for kind in ("measured", "predicted")]
            for own, value in zip(seen.values(), values, strict=True):
                own.append(value)
            cells = [f"{value:+.3f}" for value in (*costs, *values)]
            angles = f"{found.cosine:.3f} | {left.value:.3f} ({left.chance:.3f})"
            lines.append(f"| {', '.join(pair)} | {task} | {' | '.join(cells)} | {angles} |")
    print("\n".join(["", *lines]))
    for kind in ("predicted", "middle"):
        rank = float(stats.spearmanr(seen["measured"], seen[kind]).statistic)
        print(f"\nSpearman's correlation of measured with {kind} over these six: {rank:.2f}")


if __name__ == "__main__":
    main()
