"""`lineament claims` and `lineament compare`: the verdicts of a run or sweep, and of two runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from lineament.claims.claims_file import read_claims, read_sweep
from lineament.claims.verdict import Claim
from lineament.commands.inspect.flags import Claims, Compare
from lineament.commands.inspect.kinds import no_verdicts
from lineament.commands.terminal import console
from lineament.commands.verdict_tables import claims_table, sweep_table
from lineament.files.folders import IDENTITY
from lineament.files.reading import read_json
from lineament.files.schemas import read_ours
from lineament.records import target_words
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder
from lineament.settings.plain import flattened, to_dict
from lineament.settings.words import value_words

# Settings that mean nothing where model and examples were given in memory.
IN_MEMORY = ("problem", "preset", "model", "task", "training")


def claims(flags: Claims) -> int:
    """Print the verdicts, of a sweep those of every cell."""
    sweeps = SweepFolder(flags.run).results
    if sweeps.exists():
        body = read_sweep(flags.run)
        print(json.dumps(body, indent=1)) if flags.json else console.print(sweep_table(body))
        return 0
    held = _claims_of(flags.run)
    if flags.json:
        print(json.dumps(read_json(flags.run / "claims.json"), indent=1))
    else:
        console.print(claims_table(held))
    return 0


def compare(flags: Compare) -> int:
    """Print the claims of two runs side by side, and the settings in which they differ."""
    pairs = [{(claim.id, claim.task): claim for claim in _claims_of(run)} for run in (flags.first, flags.second)]
    table = Table("claim", "task", flags.first.name, flags.second.name)
    for key in dict.fromkeys([*pairs[0], *pairs[1]]):
        name, task = key
        table.add_row(name, target_words(task), *(_short(by_key.get(key)) for by_key in pairs))
    console.print(table)
    for line in _differences(*(facts_of(run) for run in (flags.first, flags.second))):
        console.print(line)
    return 0


def _claims_of(path: Path) -> list[Claim]:
    if not (path / "claims.json").exists():
        raise no_verdicts(path)
    return read_claims(path)


def _short(claim: Claim | None) -> str:
    if claim is None:
        return "not measured"
    measured = "-" if claim.measured is None else f"{claim.measured:.2f}"
    interval = f" [{claim.low:.2f}, {claim.high:.2f}]" if claim.low is not None and claim.high is not None else ""
    return f"{measured}{interval} {claim.verdict}"


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a run or a folder of `lineament.measure` was made with: dotted key -> value."""
    identity = path / IDENTITY
    if RunFolder(path).config.exists() or not identity.exists():
        return dict(flattened(to_dict(RunFolder(path).settings())))
    body = read_ours(identity, {1: "identity"}, "Measure into another folder.")
    # a model and examples in memory have no settings of their own
    held = {key: value for key, value in flattened(body["settings"]) if key.partition(".")[0] not in IN_MEMORY}
    return {**held, "model.name": body["model"], "task.names": body["tasks"]}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {value_words(a[key])} | {value_words(b[key])}" for key in a if key in b and a[key] != b[key]]
