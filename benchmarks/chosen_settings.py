"""Settings of a run as a benchmark's command line chooses them: problem, preset and `--set`."""

from __future__ import annotations

import argparse

from lineament.settings.presets import resolve
from lineament.settings.reading import parse_assignment
from lineament.settings.settings import Settings


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add what `settings_of` reads: the problem by its place, --preset, --threads and --set."""
    parser.add_argument("problem", choices=["synthetic", "lm"])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--threads", type=int, help="default: the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def settings_of(options: argparse.Namespace) -> Settings:
    """Resolve the settings that were chosen."""
    changes = dict(parse_assignment(text) for text in options.set)
    threads = {} if options.threads is None else {"threads": options.threads}
    return resolve(options.problem, options.preset, [("--set", changes), ("--threads", threads)])
