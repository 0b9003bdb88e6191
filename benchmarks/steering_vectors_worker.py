"""Runs in an environment with steering-vectors and transformers<5; `extraction.py` asks it for timed calls.

One argument, a JSON file with the model's GGUF file, pairs of prompts and the number of layers. Each line on stdin is a
batch size; the answer is one line of JSON with seconds and extra bytes.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import torch
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer


def status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    body = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(2)
    path = Path(body["gguf"])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, torch_dtype=torch.float32).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pairs, layers = [tuple(pair) for pair in body["pairs"]], list(range(body["layers"]))
    for line in sys.stdin:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls freed is no part of what this one needs
        Path("/proc/self/clear_refs").write_text("5")
        before, start = status("VmRSS"), time.perf_counter()
        train_steering_vector(
            model, tokenizer, pairs, layers=layers, read_token_index=-1, batch_size=int(line), show_progress=False
        )
        taken = {"seconds": time.perf_counter() - start, "bytes": status("VmHWM") - before}
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
