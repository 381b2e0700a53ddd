"""JSON as TensorFlow Serving's REST API reads and writes it, whatever a body is for.

Bytes are objects `{"b64": "…"}`. NaN, Infinity and -Infinity may stand bare, as in TensorFlow Serving.
"""

import base64
import binascii
import json
from typing import Any

from serving.status import Code, StatusError

__all__ = ["dump", "excerpt", "invalid", "is_base64", "kind", "parse_object", "to_bytes"]

_WHITESPACE = " \t\r\n"
# An error shows the client where it went wrong; it doesn't send the whole batch back.
_EXCERPT = 200


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body, a JSON object whose `signature_name`, if it has one, is a text.

    Of a name that stands twice the first counts. Raises StatusError(INVALID_ARGUMENT) for anything else.
    """
    document = _parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {excerpt(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {excerpt(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def _parse(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: not UTF-8. at offset: {error.start}") from None
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        raise invalid("JSON Parse error: The document is empty")
    try:
        # Like TensorFlow Serving, this reads the first value and leaves what follows it unread.
        document, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg}. at offset: {error.pos}") from None
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise invalid(f"JSON Parse error: {error}") from None
    return document


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def to_bytes(value: Any) -> bytes | None:
    """Return the bytes of a text or of `{"b64": …}`; None if the value is neither."""
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
    """Tell whether a value is the object that stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def dump(document: Any) -> bytes:
    """Return a document as JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode()


def kind(value: Any) -> str:
    """Return what TensorFlow Serving's parser calls the value's type."""
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
    """Return a value as JSON, cut short for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return "…"
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def invalid(message: str) -> StatusError:
    """Return the error for what a client sent."""
    return StatusError(Code.INVALID_ARGUMENT, message)
