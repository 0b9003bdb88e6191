"""claims.json: the verdicts of a run on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lineament.claims.intervals import Interval
from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Bounds, Claim, Condition
from lineament.files.reading import read_json
from lineament.files.schemas import read_ours
from lineament.files.writing import write_json
from lineament.records import Record

SCHEMA_VERSION = 2
# Claims of schema 1 have no conditions; nothing else differs.
SCHEMAS_READ = (1, SCHEMA_VERSION)


def write_claims(run: Path, records: Sequence[Record], rank: int) -> list[Claim]:
    """Write RUN/claims.json and return the claims.

    Args:
        rank: the headline rank.
    """
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
    path = run / "claims.json"
    anew = f"`lineament report {run}` writes it anew from the records."
    first = read_json(path)
    name = "claims" if isinstance(first, dict) and first.get("schema") != 1 else "claims-1"
    body = read_ours(path, name, anew, SCHEMAS_READ)
    return [claim_from(claim) for claim in body["claims"]]


def claim_from(body: Mapping[str, Any]) -> Claim:
    """Return the claim of one entry of claims.json or sweep.json; what a sweep adds to it is left out."""
    names = {field.name for field in fields(Claim)}
    own = {name: value for name, value in body.items() if name in names}
    return Claim(**{**own, "conditions": tuple(map(_condition, body.get("conditions", ())))})


def _condition(body: Mapping[str, Any]) -> Condition:
    interval = body["interval"]
    return Condition(body["name"], Interval(**interval) if interval else None, Bounds(**body["bounds"]), body["holds"])
