"""When should the planes of a projected optimizer be refreshed? Projected AdamW at equal rank, step size and steps.

    pip install --no-deps galore-torch==1.0
    python benchmarks/refresh.py --case gpt2 --text input.txt --out refresh-gpt2.jsonl
    python benchmarks/refresh.py --case smollm2 --text input.txt --out refresh-smollm2.jsonl
    python benchmarks/refresh.py --table refresh-gpt2.jsonl

`gpt2`: a small GPT-2 from scratch (4 layers of width 128, byte-level BPE of 1,000 tokens trained on the text), planes
of rank 8 for each matrix in the blocks. `smollm2`: LoRA of rank 8 on SmolLM2-135M's q and v, planes of rank 2 for each
factor. Text: tiny Shakespeare, data/tinyshakespeare/input.txt of the repository karpathy/char-rnn on GitHub. The last
twentieth is held out.

Arms: planes refreshed by retention (the rule of lineament.subspace.clock, fixed before any of these runs), every 20 or
200 steps, or never, moments carried over; the same by LDAdam's rule alone, which counts the second moment of what the
old plane did not hold as zero (fill_unseen=False); GaLore's own package with its gap of 200, and of 20, whose moments
stay as they are (scale 1, so that its steps are as long as ours); AdamW without planes. The step size is the one given
with --lr; of several, the one whose "200, LDAdam" arm ends lowest on a pilot seed that is not used again. Every run is
appended to --out as soon as it ends; one that is there already is not repeated. Intervals: Student t over seeds of the
paired difference.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from lineament import MatrixPlanes, ParameterSpace, SubspaceOptimizer
from lineament.problems.adapters import attach_lora, usual_targets
from lineament.problems.loading import load_model
from lineament.settings.model import LoraSettings

ARMS = (
    *("retention", "20", "200", "never", "galore 200"),
    *("retention, LDAdam", "20, LDAdam", "200, LDAdam", "galore 20", "adamw"),
)
PILOT_SEED, PILOT_ARM = 1000, "200, LDAdam"
WARMUP = 20


@dataclass(frozen=True)
class Case:
    """What is trained: a model for each seed, blocks of tokens, and which tensors have planes of which rank."""

    model: Callable[[int], nn.Module]
    training: Tensor
    held_out: Tensor
    planes: MatrixPlanes
    batch: int
    steps: int
    evaluations: int


def gpt2_case(text: str) -> Case:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(text.splitlines(), vocab_size=1000)
    training, held_out = blocks(bpe.encode(text).ids, 64)

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_positions=64, n_embd=128, n_layer=4, n_head=4))

    return Case(model, training, held_out, MatrixPlanes(8, skip=("wte", "wpe")), batch=16, steps=400, evaluations=4)


def smollm2_case(text: str) -> Case:
    base, tokenizer = load_model("smollm2-135m", "float32")
    training, held_out = blocks(tokenizer(text)["input_ids"], 16)

    def model(seed: int) -> nn.Module:
        return attach_lora(base, LoraSettings(), seed, usual_targets(base))

    return Case(model, training, held_out[:64], MatrixPlanes(2), batch=2, steps=210, evaluations=2)


def blocks(ids: list[int], length: int) -> tuple[Tensor, Tensor]:
    rows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    n_held = len(rows) // 20
    return rows[:-n_held], rows[-n_held:]


@cache
def galore_adamw() -> Any:
    """Return GaLore's AdamW without the 8-bit one beside it, which needs another package."""
    spec = importlib.util.find_spec("galore_torch")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("GaLore's package is missing: pip install --no-deps galore-torch==1.0, or leave its arms out.")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["galore_torch"] = package
    return importlib.import_module("galore_torch.adamw").AdamW


def make_optimizer(arm: str, space: ParameterSpace, planes: MatrixPlanes, lr: float) -> torch.optim.Optimizer:
    adamw = torch.optim.AdamW(space.tensors, lr=lr, weight_decay=0.0)
    if arm == "adamw":
        return adamw
    if not arm.startswith("galore"):
        when, _, rule = arm.partition(", ")
        refresh: Any = int(when) if when.isdigit() else when
        return SubspaceOptimizer(adamw, planes, space, refresh=refresh, fill_unseen=rule != "LDAdam")
    ours = SubspaceOptimizer(adamw, planes, space).projection
    gap = int(arm.split()[1])
    groups = [
        {"params": [space.tensors[i] for i in ours.plain]},
        {
            "params": [space.tensors[i] for i in ours.owners],
            **{"rank": planes.rank, "update_proj_gap": gap, "scale": 1.0, "proj_type": "std"},
        },
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return galore_adamw()([g for g in groups if g["params"]], lr=lr, eps=1e-8, weight_decay=0.0)


def held_out_loss(model: nn.Module, rows: Tensor) -> float:
    """Nats per token."""
    model.eval()
    with torch.no_grad():
        losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(16)]
    return sum(losses) / len(rows)


def run(case: Case, arm: str, seed: int, lr: float, steps: int) -> dict[str, Any]:
    model = case.model(seed)
    torch.manual_seed(seed)  # of dropout
    space = ParameterSpace.trainable(model)
    optimizer = make_optimizer(arm, space, case.planes, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    order = torch.Generator().manual_seed(seed)
    curve, clipped, step_s, start = {}, [], [], time.process_time()
    for step in range(steps):
        batch = case.training[torch.randint(len(case.training), (case.batch,), generator=order)]
        model.train()
        before = time.process_time()
        model(input_ids=batch, labels=batch).loss.backward()
        clipped.append(float(nn.utils.clip_grad_norm_(space.tensors, 1.0)) > 1.0)
        middle = time.process_time()
        optimizer.step()
        step_s.append((middle - before, time.process_time() - middle))
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % max(1, steps // case.evaluations) == 0:
            curve[step + 1] = held_out_loss(model, case.held_out)
    if hasattr(model, "unload"):
        model.unload()  # the adapter comes off the base, which the next run shares
    return {
        **{"arm": arm, "seed": seed, "lr": lr, "steps": steps, "loss": curve[max(curve)], "curve": curve},
        "refreshes": list(getattr(optimizer, "refreshes", [])),
        "clipped": statistics.mean(clipped),
        "passes_s": statistics.median(s for s, _ in step_s),
        "optimizer_s": statistics.median(s for _, s in step_s),
        "cpu_s": time.process_time() - start,
    }


def rate(step: int, steps: int) -> float:
    """Warm-up, then a cosine down to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    along = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * along))


def done(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def study(case: Case, options: argparse.Namespace) -> None:
    steps = options.steps or case.steps

    def once(arm: str, seed: int, lr: float) -> float:
        for found in done(options.out):
            if (found["arm"], found["seed"], found["lr"], found["steps"]) == (arm, seed, lr, steps):
                return found["loss"]
        found = run(case, arm, seed, lr, steps)
        with options.out.open("a") as stream:
            stream.write(json.dumps(found) + "\n")
        print(f"{arm:11} seed {seed} lr {lr:g}: {found['loss']:.4f}, refreshed at {found['refreshes']}", flush=True)
        return found["loss"]

    pilot = {lr: once(PILOT_ARM, PILOT_SEED, lr) for lr in options.lr} if len(options.lr) > 1 else {}
    best = min(pilot, key=pilot.__getitem__) if pilot else options.lr[0]
    print(f"step size {best:g} of {pilot or 'one that was given'}", flush=True)
    for seed in range(options.seeds):
        for arm in options.arms:
            once(arm, seed, best)


def table(path: Path) -> None:
    runs = [found for found in done(path) if found["seed"] != PILOT_SEED]
    arms = {arm: {f["seed"]: f for f in runs if f["arm"] == arm} for arm in ARMS}
    reference = arms["retention"]
    print("| planes | held-out loss, by seed | mean | minus retention | refreshes | optimizer / passes |")
    print("|---|---|---|---|---|---|")
    for arm, by_seed in arms.items():
        if not by_seed:
            continue
        losses = [f["loss"] for _, f in sorted(by_seed.items())]
        paired = [by_seed[s]["loss"] - reference[s]["loss"] for s in sorted(by_seed) if s in reference]
        counts = ", ".join(str(n_refreshes(f)) for _, f in sorted(by_seed.items()))
        share = statistics.median(f["optimizer_s"] / f["passes_s"] for f in by_seed.values())
        print(
            f"| {arm} | {', '.join(f'{loss:.3f}' for loss in losses)} | {statistics.mean(losses):.3f} | "
            f"{interval(paired) if arm != 'retention' else '-'} | {counts} | {share:.1%} |"
        )


def n_refreshes(found: dict[str, Any]) -> int:
    """Count refreshes; GaLore's package keeps no list of them."""
    kind, _, gap = found["arm"].partition(" ")
    return (found["steps"] - 1) // int(gap) if kind == "galore" else len(found["refreshes"])


def interval(paired: list[float]) -> str:
    mean = statistics.mean(paired)
    if len(paired) < 3:
        return f"{mean:+.3f} ({len(paired)} seed{'s' * (len(paired) > 1)})"
    half = stats.t.ppf(0.975, len(paired) - 1) * statistics.stdev(paired) / math.sqrt(len(paired))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=["gpt2", "smollm2"], default="gpt2")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, default=Path("refresh.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float, nargs="+")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        table(options.table)
        return
    if options.text is None:
        parser.error("give the text with --text; where to get it stands at the top of this file")
    torch.set_num_threads(1)
    options.lr = options.lr or ([1e-3, 3e-3, 1e-2] if options.case == "gpt2" else [2e-3, 6e-3])
    text = options.text.read_text(encoding="utf-8")
    study((gpt2_case if options.case == "gpt2" else smollm2_case)(text), options)


if __name__ == "__main__":
    main()
