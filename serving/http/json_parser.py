"""JSON parser with the rules and error messages of RapidJSON 1.1.0, which TensorFlow Serving uses.

It also reads `NaN`, `Inf` and `Infinity`, with or without a minus sign. Integers beyond 64 bits are doubles. A number
beyond the largest double is an error. Only the first value of a document is read, and the first of duplicate names
counts.
"""

import json
import math
import re
from typing import Any

import simdjson

from tfship.serving.protos.status import StatusError, invalid

__all__ = ["parse", "parse_error"]

_WHITESPACE = " \t\r\n"
# RapidJSON's integers: int64 and uint64.
_INTEGERS = range(-(2**63), 2**64)
_MAX_INTEGER_CHARACTERS = 20
_CONSTANTS = {
    "NaN": math.nan,
    "-NaN": math.nan,
    "Inf": math.inf,
    "-Inf": -math.inf,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}
# An unterminated string ends at the end of the text. Without that, each quote would be tried as the beginning of one.
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_STRINGS = re.compile(_STRING, re.DOTALL)
# After "Infi", RapidJSON expects the whole name.
_STRINGS_CONSTANTS = re.compile(rf"{_STRING}|-?(?:NaN|Infinity|Inf(?!i))", re.DOTALL)
_STRINGS_NUMBERS = re.compile(rf"{_STRING}|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.DOTALL)
# Numbers at the end of a text, which a fraction or an exponent may follow.
_INTEGER_END = re.compile(r"(?:^|[\s,:\[])-?[0-9]+$")
_DECIMAL_END = re.compile(r"(?:^|[\s,:\[])-?[0-9]+(?:\.[0-9]+)?$")
_MAX_NUMBER_CHARACTERS = 400
_BRACKETS = re.compile(r"[\[\]{}]")
# Number of brackets examined for an error message.
_MAX_BRACKETS = 10_000

_NAMES = ("null", "true", "false", "NaN", "Infinity", "-NaN", "-Infinity")
_NO_QUOTE = "Missing a closing quotation mark in string"
_MISSING = {"[": "']' after an array element", "{": "'}' after an object member"}
_REASONS = {
    "Expecting property name": "Missing a name for object member",
    "Expecting ':' delimiter": "Missing a colon after a name of object member",
    "Invalid control character": "Invalid encoding in string",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string",
    "Invalid \\escape": "Invalid escape character in string",
}


def parse(body: bytes) -> Any:
    """Return the first value in `body`, JSON in UTF-8. Raises StatusError(INVALID_ARGUMENT)."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise parse_error("not UTF-8", error.start) from None
    start = len(text) - len(text.lstrip(_WHITESPACE))
    if start == len(text):
        raise parse_error("The document is empty", start or None)
    try:
        return _plain(text, start) if _is_plain(body) else _with_all_numbers(text, start)
    except _TooBigError as error:
        at = _position(error.number, text, start)
        raise parse_error("Number too big to be stored in double", _offset(text, at)) from None
    except json.JSONDecodeError as error:
        reason, at = _reason(error, text)
        raise parse_error(reason, _offset(text, at)) from None
    except RecursionError:
        raise parse_error("nested too deeply") from None


def parse_error(reason: str, offset: int | None = None) -> StatusError:
    """Return the error for a body that isn't JSON; `offset` is a position in bytes."""
    where = "" if offset is None else f". at offset: {offset}"
    return invalid(f"JSON Parse error: {reason}{where}")


class _TooBigError(Exception):
    def __init__(self, number: str) -> None:
        super().__init__(number)
        self.number = number


def _is_plain(body: bytes) -> bool:
    """Return whether `body` is one JSON value, whose integers fit in 64 bits and other numbers in a double."""
    try:
        simdjson.Parser().parse(body)
    except (ValueError, RuntimeError):
        return False
    return True


def _plain(text: str, start: int) -> Any:
    return _DECODER.raw_decode(text, start)[0]


def _with_all_numbers(text: str, start: int) -> Any:
    """Return the first value in `text`; takes three times as long as `_plain`.

    The json module doesn't know all names of constants. It therefore gets "NaN" and spaces instead, and asks for the
    values in their order.
    """
    values: list[float] = []

    def replaced(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith('"'):
            return token
        values.append(_CONSTANTS[token])
        return "NaN".ljust(len(token))

    prepared = _STRINGS_CONSTANTS.sub(replaced, text)
    remaining = iter(values)
    decoder = json.JSONDecoder(
        object_pairs_hook=_first_wins,
        parse_int=_integer,
        parse_float=_double,
        parse_constant=lambda _: next(remaining),
    )
    return decoder.raw_decode(prepared, start)[0]


def _integer(digits: str) -> int | float:
    if len(digits) <= _MAX_INTEGER_CHARACTERS and (value := int(digits)) in _INTEGERS:
        return value
    return _double(digits)


def _double(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise _TooBigError(number)
    return value


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def _position(number: str, text: str, start: int) -> int:
    """Return the position of the first `number` in `text` outside of strings."""
    found = (each.start() for each in _STRINGS_NUMBERS.finditer(text, start) if each[0] == number)
    return next(found, start)


def _offset(text: str, at: int) -> int:
    return len(text[:at].encode())


def _reason(error: json.JSONDecodeError, text: str) -> tuple[str, int]:
    """Return the message and the position that RapidJSON reports for `error`."""
    message, at = error.msg, error.pos
    if message.startswith("Illegal trailing comma"):  # since Python 3.13; RapidJSON stops after the comma
        at += 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip(_WHITESPACE))
        message = "Expecting value" if message.endswith("array") else "Expecting property name"
    if message.startswith("Expecting ',' delimiter"):
        return _incomplete_number(text, at) or (
            f"Missing a comma or {_MISSING[_open_bracket(text[:at])]}",
            at,
        )
    if message.startswith("Expecting value"):
        # RapidJSON stops at the first letter that differs from every name it knows.
        return "Invalid value", at + max(_common_prefix(text[at : at + 9], name) for name in _NAMES)
    if message.startswith("Unterminated string"):
        return _NO_QUOTE, len(text)
    if message.startswith("Invalid control character") and text[at] == "\0":
        return _NO_QUOTE, at
    return next((ours for theirs, ours in _REASONS.items() if message.startswith(theirs)), message), at


def _incomplete_number(text: str, at: int) -> tuple[str, int] | None:
    """Return the error for a number whose fraction or exponent, which begins at `at`, has no digits."""
    before = text[max(0, at - _MAX_NUMBER_CHARACTERS) : at]
    match text[at : at + 1]:
        case "." if _INTEGER_END.search(before):
            return "Miss fraction part in number", at + 1
        case "e" | "E" if _DECIMAL_END.search(before):
            return "Miss exponent in number", at + 1 + (text[at + 1 : at + 2] in ("+", "-"))
    return None


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
