"""Time and memory of `lineament adapters`, as a whole process, on adapters for a model of a billion weights.

    python benchmarks/adapters.py
    python benchmarks/adapters.py --rank 64 --count 4

The adapters are of all linear layers of Llama-3.2-1B: 16 layers of width 2048, MLP 8192, keys and values 512. Their
factors are random, which changes neither time nor memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

N_LAYERS, WIDTH, MLP, KEYS = 16, 2048, 8192, 512
# module -> (d_out, d_in)
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KEYS, WIDTH),
    "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (MLP, WIDTH),
    "mlp.up_proj": (MLP, WIDTH),
    "mlp.down_proj": (WIDTH, MLP),
}


def write_adapter(folder: Path, rank: int, seed: int) -> int:
    """Write an adapter as PEFT names it; return its number of values."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(N_LAYERS):
        for module, (d_out, d_in) in SHAPES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator) / d_in**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator) * 1e-3
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({module.rpartition(".")[2] for module in SHAPES})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return sum(tensor.numel() for tensor in tensors.values())


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Run the command as a user does; return its seconds, those of the processor, and its largest memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lineament", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lineament {' '.join(arguments)} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--count", type=int, default=2, help="adapters that are compared")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / f"adapter-{i}" for i in range(flags.count)]
        n_values = [write_adapter(folder, flags.rank, seed) for seed, folder in enumerate(folders)]
        print(f"rank {flags.rank}, {N_LAYERS * len(SHAPES)} modules, {n_values[0]:,} values each", file=sys.stderr)
        one, every = str(folders[0]), [str(folder) for folder in folders]
        total = ",".join(f"{folder.name}=1" for folder in folders)
        commands = {
            "one adapter": ["adapters", one],
            "one adapter, cut to 90 % and written": ["adapters", one, "--truncate", "90%", "--out", f"{root}/cut"],
            f"{flags.count} adapters": ["adapters", *every],
            f"{flags.count} adapters, added and written": [
                "adapters",
                *every,
                "--combine",
                total,
                "--out",
                f"{root}/sum",
            ],
        }
        print("| command | seconds | of the processor | MiB |\n|---|---|---|---|")
        for what, arguments in commands.items():
            seconds, busy, memory = zip(*(measured(arguments) for _ in range(flags.repeats)), strict=True)
            spans = (f"{min(times):.1f} to {max(times):.1f}" for times in (seconds, busy))
            print(f"| {what} | {' | '.join(spans)} | {max(memory):.0f} |")


if __name__ == "__main__":
    main()
