"""JSON as TensorFlow Serving's REST API reads and writes it, common to all methods.

Bytes are objects `{"b64": "…"}`. NaN, Infinity and -Infinity are accepted unquoted, as in TensorFlow Serving.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.serving.protos.status import StatusError, invalid

__all__ = ["dump", "excerpt", "is_base64", "kind", "parse_object", "shortest", "to_bytes"]

_WHITESPACE = " \t\r\n"
# Characters of a value that an error message shows; a whole batch would be too long.
_EXCERPT = 200
_INDENT = " " * 4


def parse_object(body: bytes, max_depth: int | None = None) -> dict[str, Any]:
    """Parse `body`, a JSON object whose `signature_name`, if present, is a string.

    The first of duplicate names counts. Raises StatusError(INVALID_ARGUMENT) for any other body, and if lists and
    objects are nested more than `max_depth` deep.
    """
    if max_depth is not None and _is_deeper(body, max_depth):
        raise _parse_error(f"nested more than {max_depth} deep", None)
    document = _parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {excerpt(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {excerpt(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    to_bytes(name)  # raises if it isn't valid Unicode
    return document


def _is_deeper(body: bytes, max_depth: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    # Backslashes occur in strings only. Without escape sequences, every quote begins or ends a string.
    structure = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_STRUCTURE)
    codes = np.frombuffer(structure, np.uint8)
    outside = np.cumsum(codes == ord('"'), dtype=np.uint8) % 2 == 0
    return bool(np.cumsum(_STEPS[codes] * outside, dtype=np.int32).max(initial=0) > max_depth)


_NO_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
# Change of depth by each byte.
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def _parse(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _parse_error("not UTF-8", error.start) from None
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        raise _parse_error("The document is empty", start or None)
    try:
        # Reads the first value and ignores the rest of the body, as TensorFlow Serving does.
        document, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        reason, at = _rapidjson_error(error, text)
        raise _parse_error(reason, len(text[:at].encode())) from None
    except RecursionError:
        raise _parse_error("nested too deeply", None) from None
    except ValueError as error:  # an integer of thousands of digits
        raise _parse_error(str(error), None) from None
    return document


def _parse_error(reason: str, offset: int | None) -> StatusError:
    where = "" if offset is None else f". at offset: {offset}"
    return invalid(f"JSON Parse error: {reason}{where}")


def _rapidjson_error(error: json.JSONDecodeError, text: str) -> tuple[str, int]:
    """Return the message and the offset that RapidJSON, TensorFlow Serving's parser, reports for `error`."""
    message, at = error.msg, error.pos
    if message.startswith("Illegal trailing comma"):  # since Python 3.13; RapidJSON stops after the comma
        at += 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip(_WHITESPACE))
        message = "Expecting value" if message.endswith("array") else "Expecting property name"
    if message.startswith("Expecting ',' delimiter"):
        return f"Missing a comma or {_MISSING[_open_bracket(text[:at])]}", at
    if message.startswith("Expecting value"):
        # RapidJSON stops at the first letter that differs from every name it knows.
        return "Invalid value", at + max(_common_prefix(text[at : at + 8], name) for name in _NAMES)
    if message.startswith("Unterminated string"):
        return _NO_QUOTE, len(text)
    if message.startswith("Invalid control character") and text[at] == "\0":
        return _NO_QUOTE, at
    return next((ours for theirs, ours in _REASONS.items() if message.startswith(theirs)), message), at


def _common_prefix(one: str, other: str) -> int:
    """Return the length of the prefix that `one` and `other` have in common."""
    return next(
        (count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _open_bracket(text: str) -> str:
    """Return the innermost bracket that is still open at the end of `text`."""
    depth = 0
    for bracket in reversed(_BRACKETS.findall(_STRINGS.sub("", text))[-_MAX_BRACKETS:]):
        depth += 1 if bracket in "]}" else -1
        if depth < 0:
            return str(bracket)
    return "["


_NAMES = ("null", "true", "false", "NaN", "Infinity")
_NO_QUOTE = "Missing a closing quotation mark in string"
_MISSING = {"[": "']' after an array element", "{": "'}' after an object member"}
_REASONS = {
    "Expecting property name": "Missing a name for object member",
    "Expecting ':' delimiter": "Missing a colon after a name of object member",
    "Invalid control character": "Invalid encoding in string",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string",
    "Invalid \\escape": "Invalid escape character in string",
}
_BRACKETS, _STRINGS = re.compile(r"[\[\]{}]"), re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Number of brackets examined for an error message.
_MAX_BRACKETS = 10_000


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def to_bytes(value: Any) -> bytes | None:
    """Return the bytes of a string or of `{"b64": …}`; None if `value` is neither."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid("JSON Value holds half of a surrogate pair, which is no text") from None
    if not is_base64(value):
        return None
    encoded = value["b64"]
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def is_base64(value: Any) -> bool:
    """Return whether `value` is an object that encodes bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def dump(document: Any) -> bytes:
    """Return `document` as JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode()


def kind(value: Any) -> str:
    """Return the name of the value's type in TensorFlow Serving's messages."""
    match value:
        case None:
            return "Null"
        case bool():
            return str(value)
        case str():
            return "String"
        case list():
            return "Array"
        case dict():
            return "Object"
    return "Number"


def excerpt(value: Any) -> str:
    """Return at most 200 characters of `value`, formatted as in TensorFlow Serving's messages.

    Objects take several lines, lists one.
    """
    text = ""
    try:
        for piece in _pieces(value, 0):
            text += piece
            if len(text) > _EXCERPT:
                return f"{text[:_EXCERPT]}…"
    except (RecursionError, ValueError):
        return "…"
    return text


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield "{"
        for index, (name, member) in enumerate(value.items()):
            yield f"{',' if index else ''}\n{_INDENT * (depth + 1)}{json.dumps(name, ensure_ascii=False)}: "
            yield from _pieces(member, depth + 1)
        yield f"\n{_INDENT * depth}}}"
    elif isinstance(value, list):
        yield "["
        for index, member in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(member, depth)
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)


def shortest(values: NDArray[np.float32]) -> Any:
    """Return float32 `values` as nested lists of the doubles that JSON writes with the fewest digits.

    numpy writes a float32 with the fewest digits that read back; json does the same for a double.
    """
    return values.astype("U").astype(np.float64).tolist()
