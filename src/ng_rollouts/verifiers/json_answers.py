"""Find JSON in an answer, and validate it under a schema."""

from __future__ import annotations

import json
import re
from typing import Any

from ng_rollouts.verifiers.answer_markup import INVISIBLE

_DRAFTS = ("http://json-schema.org/", "https://json-schema.org/")
"""The schemas of the drafts themselves, which the library brings along."""

_FENCE = re.compile(
    r"(?<![`~])(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<label>[A-Za-z0-9+_.-]*+)"
    r"(?:[ \t][^\n`~{\[]*+(?=\n))?\s++(?=[\[{\"\d\-tfn])"
)
"""The beginning of a fenced block, up to its JSON. Possessive, so that a run of backticks takes linear time."""

_WHITE = "".join(map(chr, INVISIBLE)) + " \t\r\n"

_MAX_ERROR_CHARACTERS = 500
"""A validation error quotes the instance, which may be long."""


def check_schema(schema: Any) -> None:
    """Check that a value is a JSON schema.

    Raises:
        jsonschema.SchemaError: it is not; odd schemas raise other errors.
    """
    from jsonschema.validators import validator_for  # noqa: PLC0415 - an extra

    validator_for(schema).check_schema(schema)


def schema_error(schema: Any, text: str) -> str | None:
    """Validate the JSON in a text: the whole text, or a fenced block.

    Returns:
        The error; None if the JSON is valid under the schema.
    """
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - runs in a worker process
    from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        value = json_in(text)
    except ValueError as error:
        return f"not JSON: {error}"
    # The registry of the drafts retrieves nothing else.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=REGISTRY)
    found = best_match(validator.iter_errors(value))
    return f"{found.json_path}: {found.message}"[:_MAX_ERROR_CHARACTERS] if found else None


def remote_reference(schema: Any) -> str | None:
    """The first reference of a JSON schema that leads out of it; None if there is none."""
    ids, references, values = set(), [], [schema]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            ids.add(str(value.get("$id")).removesuffix("#"))
            references += [
                value[name] for name in ("$ref", "$dynamicRef", "$recursiveRef") if isinstance(value.get(name), str)
            ]
            values += value.values()
        elif isinstance(value, list):
            values += value
    outside = (reference for reference in references if not reference.startswith(("#", *_DRAFTS)))
    return next((reference for reference in outside if reference.partition("#")[0] not in ids), None)


def json_in(text: str) -> Any:
    """The JSON value that a text is, bare or in a fenced block. A block labelled `json` goes before the last other one.

    Raises:
        ValueError: there is none. Prose before bare JSON is not JSON, nor are NaN and Infinity.
    """
    text = text.strip(_WHITE)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        not_bare = error
    blocks: dict[bool, Any] = {}
    position = 0
    # A block is decoded, not searched for its end: fences within JSON strings do not close it.
    while match := _FENCE.search(text, position):
        position = match.end()
        is_json = match["label"].lower().startswith("json")
        try:
            value, end = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError) as error:
            # an object that cannot be read is not replaced by an earlier one; other blocks may be anything
            if is_json or text[position] in "[{":
                blocks[is_json] = error
            continue
        if re.compile(rf"\s*{re.escape(match['fence'])}").match(text, end):
            blocks[is_json] = value
            position = end
    last = blocks.get(True, blocks.get(False, not_bare))
    if isinstance(last, Exception):
        raise ValueError(str(last)) from last  # noqa: TRY004 - what is wrong is the text
    return last


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
