"""claims.json and sweep.json: the verdicts of a run and of a sweep on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lineament.claims.intervals import Interval
from lineament.claims.verdict import Bounds, Claim, Condition
from lineament.errors import InputError
from lineament.files.schemas import read_ours
from lineament.files.writing import write_json
from lineament.records import Record

SCHEMA_VERSION = 2
# Claims of schema 1 have no conditions; nothing else differs.
SCHEMAS_READ = {1: "claims-1", SCHEMA_VERSION: "claims"}
SWEEP_SCHEMA = 2


def write_claims(run: Path, records: Sequence[Record], rank: int) -> list[Claim]:
    """Write RUN/claims.json and return the claims.

    Args:
        rank: the headline rank.
    """
    from lineament.claims.registry import evaluate_claims  # who reads verdicts needs no rule

    claims = evaluate_claims(records, rank)
    body = {
        "schema": SCHEMA_VERSION,
        "problem": records[0].problem if records else None,
        "model": records[0].model if records else None,
        "n_seeds": len({record.seed for record in records}),
        "claims": [asdict(claim) for claim in claims],
    }
    write_json(run / "claims.json", body)
    return claims


def read_claims(run: Path) -> list[Claim]:
    """Read RUN/claims.json.

    Raises:
        LineamentError: the file is missing or torn, or of a schema that this version does not read.
    """
    file, remedy = run / "claims.json", f"`lineament report {run}` writes it anew from the records."
    return _claims(file, read_ours(file, SCHEMAS_READ, remedy)["claims"], remedy)


def read_sweep(sweep: Path) -> dict[str, Any]:
    """Read SWEEP/sweep.json: cells, claims, paired differences and failed jobs.

    Raises:
        InputError: the file is missing or damaged, or of a schema that this version does not read.
    """
    file, remedy = sweep / "sweep.json", f"`lineament report {sweep}` writes it anew from the records."
    body = read_ours(file, {SWEEP_SCHEMA: "sweep"}, remedy)
    for cell in body["cells"]:
        _claims(file, cell["claims"], remedy)
    return body


def _claims(file: Path, bodies: Sequence[Mapping[str, Any]], remedy: str) -> list[Claim]:
    try:
        return [claim_from(body) for body in bodies]
    except ValueError as error:
        raise InputError(f"{file} is damaged: {str(error).rstrip('.')}. {remedy}") from None


def claim_from(body: Mapping[str, Any]) -> Claim:
    """Return the claim of one entry of claims.json or sweep.json; what a sweep adds to it is left out."""
    names = {field.name for field in fields(Claim)}
    own = {name: value for name, value in body.items() if name in names}
    return Claim(**{**own, "conditions": tuple(map(_condition, body.get("conditions", ())))})


def _condition(body: Mapping[str, Any]) -> Condition:
    interval = body["interval"]
    return Condition(body["name"], Interval(**interval) if interval else None, Bounds(**body["bounds"]), body["holds"])
