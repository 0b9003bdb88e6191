"""Memory and time of a LoRA training step at full size: plain PEFT code, and the same with every step recorded.

    python benchmarks/full_size.py [--steps 20] [--threads 2] [--dtype float32] [--config config.json ...]

GPT-2 and DistilGPT-2 are made from their configurations with random weights (time and memory do not depend on values);
SmolLM2-135M comes from its package. `--config` adds models of any config.json. Both ways train the same adapter on the
same token rows with AdamW, in alternation and in the same process, so that what else the machine does falls on both. A
row gives the median step of each, the median over pairs of their ratio, and the peak memory of each way in a process of
its own over as many steps, which is all the memory of the process, Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from lineament.parameters import ParameterSpace
from lineament.problems.adapters import usual_targets
from lineament.problems.loading import SMOLLM2, load_model
from lineament.vectors.recording.writer import Recorder

ROWS, LENGTH, RANK, WARM_UP = 16, 32, 8, 2
CONFIGS: dict[str, Callable[[], Any]] = {"gpt2": GPT2Config, "distilgpt2": lambda: GPT2Config(n_layer=6)}


def make_model(name: str, dtype: str) -> Any:
    """Random weights of a configuration, or SmolLM2 from its package."""
    if name == SMOLLM2:
        return load_model(name, dtype)[0]  # type: ignore[arg-type]
    config = CONFIGS[name]() if name in CONFIGS else _read_config(Path(name))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).requires_grad_(False)


def _read_config(file: Path) -> Any:
    body = json.loads(file.read_text())
    return AutoConfig.for_model(body.pop("model_type"), **body)


class Training:
    """LoRA training as anybody writes it; `recorder` is the only difference between the two ways."""

    def __init__(self, name: str, dtype: str) -> None:
        base = make_model(name, dtype)
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(usual_targets(base)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = get_peft_model(base, lora)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3)
        self.generator, self.vocabulary = torch.Generator().manual_seed(0), base.config.vocab_size
        self.recorder: Recorder | None = None

    def rows(self) -> Tensor:
        """Random token rows of the next step."""
        return torch.randint(self.vocabulary, (ROWS, LENGTH), generator=self.generator)

    def step(self, rows: Tensor) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        self.model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recorder is not None:
            self.recorder.append()
        return time.perf_counter() - start


def timings(name: str, dtype: str, steps: int) -> tuple[int, list[float], list[float]]:
    """n_params of the adapter, and seconds of each plain and each recorded step, taken in turn."""
    training = Training(name, dtype)
    space = ParameterSpace.trainable(training.model, "lora_factors")
    plain, recorded = [], []
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(space, Path(folder) / "rows")
        for step in range(2 * (steps + WARM_UP)):
            rows, records = training.rows(), (step // 2 + step) % 2 == 1  # which comes first changes from pair to pair
            training.recorder = recorder if records else None
            (recorded if records else plain).append(training.step(rows))
        start = time.perf_counter()
        recorder.close()  # what is still to be written belongs to the steps that were recorded
        flush = (time.perf_counter() - start) / recorder.n_steps
    return space.n_params, plain[WARM_UP:], [seconds + flush for seconds in recorded[WARM_UP:]]


def peak_memory(name: str, dtype: str, steps: int, *, record: bool) -> float:
    """MiB that a process of its own reaches over so many steps."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found: float = pool.apply(_peak, (name, dtype, steps, record, torch.get_num_threads()))
    return found


def _peak(name: str, dtype: str, steps: int, record: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    training = Training(name, dtype)
    with tempfile.TemporaryDirectory() as folder:
        if record:
            training.recorder = Recorder(
                ParameterSpace.trainable(training.model, "lora_factors"), Path(folder) / "rows"
            )
        for _ in range(steps):
            training.step(training.rows())
        if training.recorder is not None:
            training.recorder.close()
    # Not ru_maxrss: that begins at what the parent held when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps of each way, after two to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="type of the base")
    parser.add_argument("--config", action="append", default=[], help="a config.json, repeatable")
    parser.add_argument("--only", action="append", help="of gpt2, distilgpt2 and smollm2-135m; repeatable")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [*(options.only or [*CONFIGS, SMOLLM2]), *options.config]
    what = f"{ROWS} rows of {LENGTH} tokens, rank {RANK}, {options.dtype}"
    print(f"{what}, {options.threads} threads, {options.steps} steps of each way")
    print("| model | adapter | plain step | recorded step | overhead (median of pairs) | peak plain | peak recorded |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        n_params, plain, recorded = timings(name, options.dtype, options.steps)
        ratio = statistics.median(b / a for a, b in zip(plain, recorded, strict=True))
        peaks = [peak_memory(name, options.dtype, options.steps, record=record) for record in (False, True)]
        print(
            f"| {Path(name).parent.name if name in options.config else name} | {n_params:,} | "
            f"{statistics.median(plain):.3f} s | {statistics.median(recorded):.3f} s | {100 * (ratio - 1):+.1f} % | "
            f"{peaks[0]:.0f} MiB | {peaks[1]:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
