"""Files of ours are held to the schemas in the package when they are read: somebody may have edited or damaged them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lineament.errors import InputError
from lineament.files.reading import read_json, shown

Schema = Mapping[str, Any]
FOLDER = Path(__file__).parents[1] / "schemas"
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def read_ours(path: Path, schemas: str | Mapping[int, str], remedy: str) -> dict[str, Any]:
    """Read a JSON file of ours and hold it to a schema of the package: keys that must be there, and types.

    Args:
        schemas: name of the schema, e.g. `state`; of a file with a number, the number -> its schema's name.
        remedy: what to do where it is damaged.

    Raises:
        InputError: it cannot be read, is of another version, lacks a key, or holds one of another type; names the key.
    """
    body = read_json(path)
    schema = _schema(schemas if isinstance(schemas, str) else _name_of(body, schemas, path, remedy))
    if fault := next(_faults(body, schema, schema, ""), None):
        raise InputError(f"{path} is damaged: {fault}. {remedy}")
    return dict(body)


def _name_of(body: Any, schemas: Mapping[int, str], path: Path, remedy: str) -> str:
    """Return the name of the schema whose number the file has; what is no object is held to the newest."""
    if not isinstance(body, dict):
        return schemas[max(schemas)]
    number = body.get("schema")
    if isinstance(number, int) and not isinstance(number, bool) and number in schemas:
        return schemas[number]
    known = " and ".join(map(str, schemas))
    raise InputError(
        f"{path} has schema {shown(number)}; this version reads schema{'s' * (len(schemas) > 1)} {known}. {remedy}"
    )


@cache
def _schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = read_json(FOLDER / f"{name}.schema.json")
    return schema


def _faults(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    """Yield what is wrong with a value: types, keys, choices, least values, lengths; no patterns."""
    if "$ref" in schema:
        yield from _faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
    if "anyOf" in schema:
        each = [next(_faults(value, one, root, place), None) for one in schema["anyOf"]]
        yield from each[-1:] if all(each) and each[-1] else ()  # type: ignore[misc]
    if "type" in schema and not _is_of(value, schema["type"]):
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        yield f"{place or 'the whole'} is {shown(value)}; it must be of type {' or '.join(names)}"
    elif fault := _limit_fault(value, schema):
        yield f"{place or 'the whole'} {fault}"
    elif isinstance(value, dict):
        yield from _key_faults(value, schema, root, place)
    elif isinstance(value, list):
        first, others = schema.get("prefixItems", ()), schema.get("items", {})
        for number, part in enumerate(value):
            own = first[number] if number < len(first) else others
            yield from _faults(part, own, root, f"{place}[{number}]")


def _limit_fault(value: Any, schema: Schema) -> str | None:
    if "enum" in schema and value not in schema["enum"]:
        return f"is {shown(value)}; it must be {' or '.join(map(str, schema['enum']))}"
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        return f"is {shown(value)}; it must be at least {schema['minimum']}"
    fewest, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if isinstance(value, list) and not fewest <= len(value) <= most:
        return f"has {len(value)} entries; it must have {fewest} {f'to {most}' if most < math.inf else 'or more'}"
    return None


def _key_faults(value: Schema, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{place or 'the whole'} lacks the key {key!r}"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, part in value.items():
        inner = f"{place}.{key}" if place else key
        if key in known:
            yield from _faults(part, known[key], root, inner)
        elif others is False:
            yield f"{inner} is no key that is known here"
        elif others is not True:
            yield from _faults(part, others, root, inner)


def _is_of(value: Any, names: str | list[str]) -> bool:
    for name in [names] if isinstance(names, str) else names:
        if isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number")):
            return True
    return False
