"""The command line: parse, dispatch, exit codes. The flags of a command are the dataclass in its `flags.py`."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from lineament import __version__
from lineament.commands.inspect.flags import Cache, Claims, Compare, Export, Keys, Report, Runs
from lineament.commands.recordings.flags import Advise, Analyze, RecordFromCheckpoints
from lineament.commands.run.flags import Run
from lineament.commands.search.flags import Search
from lineament.commands.steer import flags as steer
from lineament.commands.sweep.flags import Sweep
from lineament.errors import LineamentError, memory_message
from lineament.settings.flag_values import require_flags

DESCRIPTION = (
    "Measure the local linear structure of neural networks: which directions are real, how far they reach, how fast "
    "they go stale. Exit codes: 0 done, 1 the run failed, 2 bad usage or input. --version prints the version."
)
COMMANDS: dict[str, type] = {
    "run": Run,
    "sweep": Sweep,
    "search": Search,
    "steer": steer.Steer,
    "analyze": Analyze,
    "advise": Advise,
    "record-from-checkpoints": RecordFromCheckpoints,
    "report": Report,
    "claims": Claims,
    "runs": Runs,
    "compare": Compare,
    "export": Export,
    "cache": Cache,
    "keys": Keys,
}
# Module and function that carry a command out; imported late, since torch and transformers take seconds to import.
FUNCTIONS: dict[type, str] = {
    Run: "run.command:run",
    Sweep: "sweep.command:sweep",
    Search: "search.command:search",
    steer.Make: "steer.make:make",
    steer.Eval: "steer.evaluate:evaluate",
    steer.Generate: "steer.generate:generate",
    steer.Export: "steer.convert:export_vector",
    steer.Import: "steer.convert:import_vector",
    Analyze: "recordings.command:show_analysis",
    Advise: "recordings.command:show_advice",
    RecordFromCheckpoints: "recordings.command:record",
    Report: "inspect.report:report",
    Claims: "inspect.claims:claims",
    Compare: "inspect.claims:compare",
    Runs: "inspect.runs:runs",
    Export: "inspect.export:export",
    Cache: "inspect.cache:cache",
    Keys: "inspect.keys:keys",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out a command; return the exit code: 0 done, 1 the run failed, 2 bad usage or input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold bytes or letters that the stream has no code for
            stream.reconfigure(errors="backslashreplace")
    if given == ["--version"]:
        print(f"lineament {__version__}")
        return 0
    try:
        command = _parsed(given)
    except BrokenPipeError:  # as in `lineament --help | head`
        return _unheard()
    try:
        require_flags(command)
        # `run --vary` is a sweep
        code = function_of(Sweep if isinstance(command, Run) and command.vary else type(command))(command)
        sys.stdout.flush()  # a closed pipe must show here, not while Python exits
        return code
    except LineamentError as error:
        if getattr(command, "debug", False):
            raise
        print(f"lineament: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough, as in `lineament export RUN --csv | head`
        return _unheard()
    except OSError as error:  # outside the files that are written whole
        if getattr(command, "debug", False):
            raise
        from lineament.files.writing import what_to_do

        print(f"lineament: {error}. {what_to_do(error)}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, ValueError) as error:
        if getattr(command, "debug", False) or (message := memory_message(error)) is None:
            raise
        print(f"lineament: {message} What was finished stays.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = " Run the same command with --resume." if hasattr(command, "resume") else ""
        print(f"lineament: interrupted; what was finished stays.{again}", file=sys.stderr)
        return 1


def _parsed(given: Sequence[str]) -> Any:
    """Return the request of a command line; the parser ends the process after help and on a wrong flag."""
    try:
        command: Any = tyro.cli(_commands(), args=given, prog="lineament", description=DESCRIPTION)
    finally:
        sys.stdout.flush()  # a closed pipe must show here, not while Python exits
    return command.action if isinstance(command, steer.Steer) else command


def _unheard() -> int:
    """Send what is still buffered for a closed pipe nowhere; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _commands() -> Any:
    """Return the union of dataclasses that tyro turns into subcommands."""
    kinds = [Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items()]
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    return union


def function_of(kind: type) -> Callable[[Any], int]:
    """Import the function that carries out commands of this class."""
    module, _, name = FUNCTIONS[kind].partition(":")
    function: Callable[[Any], int] = getattr(importlib.import_module(f"lineament.commands.{module}"), name)
    return function


if __name__ == "__main__":
    sys.exit(main())
