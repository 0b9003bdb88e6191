"""The command line: parse, dispatch, exit codes. The flags of a command are the dataclass in its `flags.py`."""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lineament import __version__
from lineament.command_line.completion import completion_script
from lineament.command_line.help_text import command_help, group_help, overview
from lineament.command_line.parser import HELP, command_named, parse
from lineament.commands.adapters.flags import Adapters
from lineament.commands.compose.flags import Compose
from lineament.commands.inspect.flags import Cache, Claims, Compare, Export, Keys, Report, Runs
from lineament.commands.model.flags import Model
from lineament.commands.recordings.flags import Advise, Analyze, RecordFromCheckpoints
from lineament.commands.run.flags import Run
from lineament.commands.search.flags import Search
from lineament.commands.steer import flags as steer
from lineament.commands.sweep.flags import Sweep
from lineament.errors import InputError, LineamentError, memory_message
from lineament.settings.flag_values import require_flags

ABOUT = (
    "Measure the local linear structure of neural networks: which directions are real, how far they reach, how fast "
    "they go stale."
)
NOTES = (
    "`lineament COMMAND --help` says what a command does and lists its flags; --version prints the version, and "
    "--print-completion bash (or zsh) a script that completes commands and flags in a shell.",
    "Exit codes: 0 done, 1 the run failed, 2 bad usage or input.",
    "Start with: lineament run synthetic --preset quick",
)
# By what one wants to do, as the help shows them.
COMMANDS_BY_AIM: dict[str, dict[str, type]] = {
    "Measure a model": {"run": Run, "sweep": Sweep},
    "Look at a training that was recorded": {
        "analyze": Analyze,
        "advise": Advise,
        "record-from-checkpoints": RecordFromCheckpoints,
    },
    "Look into adapters and merge them": {"adapters": Adapters, "compose": Compose},
    "Search around trained weights": {"search": Search},
    "Steer a model's activations": {f"steer {name}": kind for name, kind in steer.ACTIONS.items()},
    "Look at results": {"report": Report, "claims": Claims, "runs": Runs, "compare": Compare, "export": Export},
    "Settings and stored models": {"keys": Keys, "model": Model, "cache": Cache},
}
COMMANDS: dict[str, type] = {name: kind for kinds in COMMANDS_BY_AIM.values() for name, kind in kinds.items()}
# Module and function that carry a command out; imported late, since torch and transformers take seconds to import.
FUNCTIONS: dict[type, str] = {
    Run: "run.command:run",
    Sweep: "sweep.command:sweep",
    Search: "search.command:search",
    steer.Make: "steer.make:make",
    steer.Eval: "steer.evaluate:evaluate",
    steer.Generate: "steer.generate:generate",
    steer.Combine: "steer.combine:combine",
    steer.Export: "steer.convert:export_vector",
    steer.Import: "steer.convert:import_vector",
    Analyze: "recordings.command:show_analysis",
    Advise: "recordings.command:show_advice",
    RecordFromCheckpoints: "recordings.command:record",
    Adapters: "adapters.command:adapters",
    Compose: "compose.command:compose",
    Report: "inspect.report:report",
    Claims: "inspect.claims:claims",
    Compare: "inspect.claims:compare",
    Runs: "inspect.runs:runs",
    Export: "inspect.export:export",
    Model: "model.command:model",
    Cache: "inspect.cache:cache",
    Keys: "inspect.keys:keys",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out a command; return the exit code: 0 done, 1 the run failed, 2 bad usage or input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold bytes or letters that the stream has no code for
            stream.reconfigure(errors="backslashreplace")
    command, started = None, time.monotonic()
    try:
        if (text := _asked_text(given)) is not None:
            print(text, flush=True)
            return 0
        command = _parsed(given)
        require_flags(command)
        with _starting(command):
            # `run --vary` is a sweep
            function = function_of(Sweep if isinstance(command, Run) and command.vary else type(command))
            _require_device(command)
        with _threads_of(command):
            code = function(command)
        sys.stdout.flush()  # a closed pipe must show here, not while Python exits
        _say_done(command, started)
        return code
    except BrokenPipeError:  # whoever read our output has seen enough, as in `lineament export RUN --csv | head`
        return _unheard()
    except (LineamentError, OSError, MemoryError, RuntimeError, ValueError, KeyboardInterrupt) as error:
        said = None if getattr(command, "debug", False) else _said(error, command)
        if said is None:
            raise
        print(f"lineament: {said}", file=sys.stderr)
        return error.exit_code if isinstance(error, LineamentError) else 1


def _said(error: BaseException, command: Any) -> str | None:
    """Return what to tell a user of an error; None for one that is ours to mend, whose traceback tells."""
    if isinstance(error, LineamentError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        again = " Run the same command with --resume." if hasattr(command, "resume") else ""
        return f"interrupted; what was finished stays.{again}"
    if isinstance(error, OSError):  # outside the files that are written whole
        from lineament.files.writing import what_to_do

        return f"{error}. {what_to_do(error)}"
    message = memory_message(error)
    return message and f"{message} What was finished stays."


def _asked_text(given: Sequence[str]) -> str | None:
    """Return what a line asks to be told, by --help, --version or --print-completion; None for a command."""
    before = list(itertools.takewhile(lambda word: word != "--", given))
    asked_help = any(word in HELP for word in before)
    if given[:1] == ["--version"]:
        return f"lineament {__version__}"
    if given[:1] == ["--print-completion"]:
        return completion_script(given[1] if len(given) > 1 else "", COMMANDS)
    if not asked_help:
        return None
    words = [word for word in before if not word.startswith("-")]
    if not words:
        return overview(ABOUT, COMMANDS_BY_AIM, NOTES)
    actions = {name: kind for name, kind in COMMANDS.items() if name.startswith(f"{words[0]} ")}
    if actions and " ".join(words[:2]) not in COMMANDS:
        return group_help(words[0], actions)
    name, _ = command_named(words, COMMANDS)
    return command_help(name, COMMANDS[name])


def _parsed(given: Sequence[str]) -> Any:
    """Return the request of a command line.

    Raises:
        InputError: it is none; the message says what to type.
    """
    if not given:
        raise InputError("say what to do: `lineament --help` lists all. Start with `lineament run synthetic`.")
    name, n_words = command_named(given, COMMANDS)
    return parse(name, given[n_words:], COMMANDS)


def _require_device(command: Any) -> None:
    """Refuse a device that is not there before a command begins; workers on other machines may have it."""
    if getattr(command, "device", None) == "cuda" and getattr(command, "executor", "serial") != "ray":
        from lineament.problems.problem import chosen_device  # commands without the flag need no torch

        chosen_device("cuda")


@contextmanager
def _threads_of(command: Any) -> Iterator[None]:
    """Hold numpy's products to --threads, as torch is: they would take every core, and differ in their last bits."""
    threads = getattr(command, "threads", None)
    if threads is None:  # jobs have the number of their settings
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


@contextmanager
def _starting(command: Any) -> Iterator[None]:
    """Say on a terminal that a command with progress has begun, while its imports take their seconds."""
    if getattr(command, "quiet", True) or not sys.stderr.isatty():
        yield
        return
    words = "starting ..."
    print(words, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * len(words)}\r", end="", file=sys.stderr, flush=True)


def _say_done(command: Any, started: float) -> None:
    """Say how long a command with progress took."""
    if not getattr(command, "quiet", True):
        from lineament.commands.time_left import duration

        print(f"done in {duration(time.monotonic() - started)}", file=sys.stderr)


def _unheard() -> int:
    """Send what is still buffered for a closed pipe nowhere; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def function_of(kind: type) -> Callable[[Any], int]:
    """Import the function that carries out commands of this class."""
    module, _, name = FUNCTIONS[kind].partition(":")
    function: Callable[[Any], int] = getattr(importlib.import_module(f"lineament.commands.{module}"), name)
    return function


if __name__ == "__main__":
    sys.exit(main())
