"""JSON as TensorFlow Serving's REST API reads and writes it, common to all methods.

Bytes are objects `{"b64": "…"}`. `serving.http.json_parser` has the syntax.
"""

import binascii
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.serving.http.json_parser import parse, parse_error
from tfship.serving.protos.status import invalid

__all__ = ["dump", "excerpt", "is_base64", "kind", "parse_object", "shortest", "to_bytes"]

# Characters of a value that an error message shows; a whole batch would be too long.
_EXCERPT = 200
_INDENT = " " * 4
_BASE64_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def parse_object(body: bytes, max_depth: int | None = None) -> dict[str, Any]:
    """Parse `body`, a JSON object whose `signature_name`, if present, is a string.

    The first of duplicate names counts. Raises StatusError(INVALID_ARGUMENT) for any other body, and if lists and
    objects are nested more than `max_depth` deep.
    """
    if max_depth is not None and _is_deeper(body, max_depth):
        raise parse_error(f"nested more than {max_depth} deep")
    document = parse(body)
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


def to_bytes(value: Any) -> bytes | None:
    """Return the bytes of a string or of `{"b64": …}`; None if `value` is neither."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid("JSON Value holds half of a surrogate pair, which is no text") from None
    if not is_base64(value):
        return None
    decoded = _base64_decoded(value["b64"])
    if decoded is None:
        raise invalid("Unable to base64 decode")
    return decoded


def _base64_decoded(text: str) -> bytes | None:
    """Return the bytes of base64 `text`, None if it is invalid; the rules are those of `absl::Base64Unescape`.

    White space is ignored. The padding, `=` or `.`, is complete or absent. Bits beyond the last byte are ignored.
    """
    if not text.isascii():
        return None
    encoded = text.encode().translate(None, b" \t\n\v\f\r")
    digits = encoded.rstrip(b"=.")
    missing = -len(digits) % 4
    if (
        missing == 3
        or len(encoded) - len(digits) not in (0, missing)
        or digits.translate(None, _BASE64_DIGITS)
    ):
        return None
    return binascii.a2b_base64(digits + b"=" * missing)


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
