"""Activations of both classes: lineament against steering-vectors and against a bare forward pass.

    python benchmarks/extraction.py [--peer-python PATH] [--statements 512] [--pairs 128] [--rounds 5]

SmolLM2-135M, block outputs of layers 1 to 20 (two thirds of the depth). All ways in turn in one run, medians of
rounds after a warm-up round. PATH is the python of an environment with steering-vectors 0.12 and transformers<5,
which cannot be installed beside ours; without it only the limit is compared. Extra memory is the peak of the
process's resident set during the call, less what it was before (Linux).

- limit: the model cut off after layer 20 and without its head, over the same length-sorted batches, no hooks.
- answer contrast: each prompt with both answers; lineament computes the prompt once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lineament.activations.capture import Place, group_sums, layers_up_to, length_sorted, problem_reader
from lineament.activations.packed import read_answers
from lineament.problems.encoding import PAIR_PROMPT, PROMPT
from lineament.problems.labelled_data import Pair
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.loading import smollm2_file
from lineament.problems.problem import Batch
from lineament.problems.statements import words
from lineament.settings.presets import resolve

LAYERS = layers_up_to(30, 2 / 3)
PEER = Path(__file__).with_name("steering_vectors_worker.py")
PEER_BATCHES = (1, 8, 32)


def peak_extra_bytes(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a call, and how much its resident set grew at most."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls freed is no part of what this one needs
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.perf_counter()
    call()
    return time.perf_counter() - start, _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@contextmanager
def cut_off(model: Any) -> Iterator[nn.Module]:
    """The decoder without its upper layers and its head."""
    body, layers = model.model, model.model.layers
    body.layers = nn.ModuleList(layers[: len(LAYERS)])
    try:
        yield body
    finally:
        body.layers = layers


def bare(model: Any, batch: Batch) -> None:
    with cut_off(model) as body, torch.no_grad():
        for index in length_sorted(batch):
            part = batch.rows(index)
            body(input_ids=part.input_ids, attention_mask=part.attention_mask, use_cache=False)


class Peer:
    """A process of the other environment that is asked for one timed call at a time."""

    def __init__(self, python: Path, pairs: list[tuple[str, str]]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump({"gguf": str(smollm2_file()), "pairs": pairs, "layers": len(LAYERS)}, file)
        command = [str(python), str(PEER), file.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, batch_size: int) -> tuple[float, int]:
        """Seconds and extra bytes of one extraction."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(batch_size, file=self._process.stdin, flush=True)
        body = json.loads(self._process.stdout.readline())
        return body["seconds"], body["bytes"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measured(ways: dict[str, Callable[[], tuple[float, int]]], rounds: int) -> dict[str, list[tuple[float, int]]]:
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            result = way()
            if turn:
                found[name].append(result)
    return found


def show(title: str, found: dict[str, list[tuple[float, int]]], n: int) -> None:
    print(f"\n{title}")
    print("| way | median s (range) | examples / s | extra MiB | time of lineament is this much less |")
    print("|---|---|---|---|---|")
    ours = [seconds for seconds, _ in found["lineament"]]
    for name, results in found.items():
        seconds, extra = [s for s, _ in results], statistics.median(b for _, b in results) / 2**20
        middle = statistics.median(seconds)
        ratio = statistics.median(a / b for a, b in zip(seconds, ours, strict=True))
        spread = f"{middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        print(f"| {name} | {spread} | {n / middle:.0f} | {extra:.0f} | {ratio:.2f}x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--statements", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(2)
    problem = LanguageModelProblem(resolve("lm", "quick", [("here", {"recovery.space": "full"})]), 0)
    statement_contrast(problem, options)
    answer_contrast(problem, options)


def statement_contrast(problem: LanguageModelProblem, options: argparse.Namespace) -> None:
    pool = words()
    n = options.statements // 2
    chosen = [[s for s in pool if s.label == label][:n] for label in (True, False)]
    texts = [[PROMPT.format(statement=s.text) for s in part] for part in chosen]
    batch, groups = problem.encode([*chosen[0], *chosen[1]]), torch.arange(2 * n) // n
    reader = problem_reader(problem, Place(LAYERS))
    ways = {
        "lineament": lambda: peak_extra_bytes(lambda: group_sums(reader, batch, groups, 2)),
        "bare pass (limit)": lambda: peak_extra_bytes(lambda: bare(problem.model, batch)),
    }
    compare(f"statement contrast, {2 * n} statements", ways, options, list(zip(*texts, strict=True)), 2 * n)


def answer_contrast(problem: LanguageModelProblem, options: argparse.Namespace) -> None:
    chosen = words()[:: max(1, len(words()) // options.pairs)][: options.pairs]
    pairs = [_pair(s.text, s.label) for s in chosen]
    encoded = problem.encode_pairs(pairs)
    answers = torch.stack([encoded.prompts.targets[:, 0], encoded.others], dim=1)
    place = Place(LAYERS)

    def ours() -> object:
        return read_answers(problem.model, encoded.prompts, answers, place, problem.device)

    # What ends at the answer token, so that the last token is the one that is read.
    texts = [[PAIR_PROMPT.format(question=p.text, answer=a)[:-1] for a in (p.matching, p.not_matching)] for p in pairs]
    prompt_tokens = int(encoded.prompts.attention_mask.sum()) / len(pairs)
    ways = {
        "lineament": lambda: peak_extra_bytes(ours),
        "bare pass over the prompts (limit)": lambda: peak_extra_bytes(lambda: bare(problem.model, encoded.prompts)),
    }
    title = f"answer contrast, {len(pairs)} pairs, prompts of {prompt_tokens:.0f} tokens"
    compare(title, ways, options, [(a, b) for a, b in texts], 2 * len(pairs))


def _pair(text: str, label: bool) -> Pair:
    question = (
        f"Here is a statement about the world: {text} Is it true?\n\nChoices:\n (A) Yes, it is\n (B) No, it is not\n"
    )
    matching, other = ("(A)", "(B)") if label else ("(B)", "(A)")
    return Pair(question, matching, other, text)


def compare(
    title: str,
    ways: dict[str, Callable[[], tuple[float, int]]],
    options: argparse.Namespace,
    texts: list[tuple[str, str]],
    n: int,
) -> None:
    peer = Peer(options.peer_python, texts) if options.peer_python else None
    if peer:
        for size in PEER_BATCHES:
            ways[f"steering-vectors, batch {size}"] = lambda size=size: peer.run(size)
    show(title, measured(ways, options.rounds), n)
    if peer:
        peer.close()


if __name__ == "__main__":
    sys.exit(main())
