"""Checks what `--json` prints against the schema of its format."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema

from planner.report.schemas import schema_of


def closed(schema: Any) -> Any:
    """Returns a schema that takes no keys but those it names: a key that nobody described fails a test."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(part) for key, part in schema.items()}
    return inner if "properties" not in schema else {"additionalProperties": False, **inner}


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(closed(schema))


def checked(printed: str) -> dict[str, Any]:
    """Returns the only document in `printed`, which must be of its format."""
    document: dict[str, Any] = json.loads(printed)
    _validator(document["format"]).validate(document)
    return document
