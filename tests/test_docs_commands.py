"""Every command of every page of the documentation is run, in order, on input as small as it can be."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import lineament_here
from docs_workshop import base_model, training, write_workshop
from families import SHORTEST
from made_once import made_once
from sweep_jobs import SMALLEST
from test_docs import NOT_RUN, PAGES, ROOT, RUN_WITH_COMMANDS, blocks, whole_lines

import lineament

# What a command of a page needs that no test has; it is parsed (tests/test_docs.py), and not run.
OUT_OF_REACH = {"--ray-address": "a cluster", "hf:": "a download"}
MODELS = ("smollm2-135m", "distilgpt2", "EleutherAI/pythia-160m", "Qwen/Qwen3-0.6B", "path/to/model.gguf")
BASE = "path/to/base"
# Values of flags, and flags that a command is given where the page does not: sizes only.
SMALLER = {
    "--budget": "128", "--workers": "1", "--layers": "2-3", "--layer": "2", "--seeds": "2", "--examples": "12",
    "--truncate": "2", "--warmup-steps": "4", "--executor": "serial",
}  # fmt: skip
ALSO = {
    "search": {
        "--budget": "128",
        "--population": "8",
        "--probe": "2",
        "--examples": "8",
        "--rank": "2",
        "--threads": "1",
    },
    "steer make": {"--model": BASE, "--threads": "1"},
    "steer eval": {"--model": BASE, "--threads": "1", "--neutral": "2"},
    "steer generate": {"--model": BASE, "--threads": "1", "--tokens": "4"},
    "compose": {"--scales": "1", "--draws": "2", "--examples": "12", "--order-examples": "2", "--threads": "1"},
    "advise": {"--threads": "1"},
    "analyze": {"--threads": "1"},
}
# Settings of runs, below those that a page names.
SYNTHETIC = {**SMALLEST, "seeds": "1"} | {
    "task.names": "sort,copy,maximum,parity", "task.targets": "sort", "search.draws": "128",
    "search.theorem_draws": "128", "search.density_draws": "128", "search.most_probes": "8", "search.lora_ranks": "2",
    "search.widths": "16", "recovery.threshold": "0.01",
    "measurement.drift_gradients": "2", "measurement.drift_rank": "1", "measurement.lanczos_steps": "3",
    "measurement.curvature_batch": "8", "measurement.task_vector_steps": "2", "measurement.inside_steps": "2",
    "steering.examples": "16", "steering.folds": "2", "steering.random_directions": "3", "steering.shuffled_steps": "1",
    "steering.neutral_examples": "4", "steering.effect_directions": "1", "geometry.examples": "8",
    "geometry.held_out_examples": "8", "geometry.rotation_lags": "1", "geometry.prompts": "4",
}  # fmt: skip
LANGUAGE = {**SHORTEST, "seeds": "1", "measure": "gradient_rank", "task.names": "words"}


SWEEP = ["run", "synthetic", "--preset", "quick", "--vary", "recovery.optimizer=sgd,adamw", "--vary"]
SWEEP += ["damage.kind=wrong_labels,ascent"]


def steps(page: Path) -> list[tuple[str, str]]:
    """Blocks of a page to be run in order: all of the shell, and those of Python that need what these make."""
    found = re.findall(r"(?ms)^([^\n]*)\n```(sh|python)\n(.*?)^```", page.read_text())
    return [
        (language, code)
        for before, language, code in found
        if (language == "sh" and not before.startswith(NOT_RUN)) or before.startswith(RUN_WITH_COMMANDS)
    ]


WITH_COMMANDS = [page for page in PAGES if page.name != "README.md" and steps(page)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "workshop", fill)


def fill(folder: Path) -> None:
    """Write models, data and recordings into a new folder, and make the runs that pages begin with."""
    folder.mkdir(exist_ok=True)
    write_workshop(folder)
    more = {"demo": ["--measure", "gradient_rank,basis_capture"], "other": ["--seed", "5"]}
    for name in ("first", "demo", "other", "synthetic-quick"):
        run_line(["run", "synthetic", "--preset", "quick", "--out", f"runs/{name}", *more.get(name, [])], folder)


def lines(block: str) -> Iterator[list[str]]:
    """Words of each command of a block that can be run here."""
    for line in whole_lines(block):
        if line.startswith("lineament ") and not any(what in line for what in OUT_OF_REACH):
            yield shlex.split(line, comments=True)[1:]


def names_of(page: Path, folder: Path) -> dict[str, Any]:
    """What the page leaves to the reader: a model, arguments and data of a training, a sweep that was made."""
    names: dict[str, Any] = {}
    if page.stem in ("record-training", "train-in-a-subspace", "adapters"):
        shutil.rmtree(folder / "recording")
        model, args, data = training(folder, save_strategy="no")
        names |= {"model": model, "args": args, "data": data, "base": base_model()}
        names |= {"Trainer": transformers.Trainer, "lineament": lineament, "torch": torch}
    if page.stem in ("read-results", "sweep-folder"):
        run_line(SWEEP, folder)
    return names


def run_line(words: list[str], folder: Path) -> None:
    words, _, file = [list(part) for part in _split(words, ">")]
    command = smaller(words)
    _make_room(command, folder)
    done = lineament_here(*command, cwd=folder)
    assert done.returncode == 0, (words, command, done.stderr, done.stdout)
    assert "Traceback" not in done.stderr
    if file:
        (folder / file[0]).write_text(done.stdout)


def _split(words: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    """What stands before a mark, and after it."""
    at = words.index(mark) if mark in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def _make_room(command: list[str], folder: Path) -> None:
    """What an earlier reader left at --out goes, unless the command says that it adds to it or replaces it."""
    if "--out" in command and not {"--resume", "--overwrite"} & set(command):
        out = folder / command[command.index("--out") + 1]
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def smaller(words: list[str]) -> list[str]:
    """The same command with small models, numbers and settings."""
    words = [BASE if word in MODELS else word for word in words]
    words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    for name, flags in ALSO.items():
        if words[: len(name.split())] == name.split():
            words += [part for flag, value in flags.items() if flag not in words for part in (flag, value)]
    if "--check" in words:
        words += ["--tests", "rank", *(["--examples", "12"] if "--data" in words else [])]
    if words[0] == "sweep" or (words[0] == "run" and "--config" not in words):
        settings = LANGUAGE if words[1] == "lm" else SYNTHETIC
        if words[1] == "lm" and "--data" in words:
            settings = {**settings, "task.names": Path(words[words.index("--data") + 1]).stem}
        if words[1] == "lm" and "--model" not in words:
            words += ["--model", BASE]
        if "--vary" in words or words[0] == "sweep":
            settings = {**settings, "measure": "gradient_rank,basis_capture"}
        words[2:2] = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_a_page_run_in_order(page: Path, workshop: Path, tmp_path: Path) -> None:
    run_page(page, workshop, tmp_path / "here")


def run_page(page: Path, workshop: Path, folder: Path) -> None:
    """Run the commands of a page in a copy of the workshop."""
    shutil.copytree(workshop, folder)
    for block in re.findall(r"(?ms)^```toml\n(.*?)^```", page.read_text())[:1]:
        (folder / "mine.toml").write_text(block)
    names = names_of(page, folder)
    for language, code in steps(page):
        if language == "sh":
            for words in lines(code):
                run_line(words, folder)
        else:
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, str(page), "exec"), names)


def test_what_is_out_of_reach_is_little() -> None:
    everything = [line for page in WITH_COMMANDS for block in blocks(page, "sh") for line in whole_lines(block)]
    asked = [line for line in everything if line.startswith("lineament ")]
    left_out = [line for line in asked if any(what in line for what in OUT_OF_REACH)]
    assert len(asked) > 60
    assert len(left_out) <= 3, left_out
