"""Paths of TensorFlow Serving's REST API, by the rules of its `http_rest_api_util.cc` and of libevent.

The query string and the fragment are part of the path. Paths are matched case-insensitively, but actions are compared
exactly. %-escapes are decoded after matching: an escaped slash is part of a name and doesn't separate path segments.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from tfship.serving.models.version_policy import parse_version
from tfship.serving.protos.messages import model_pb2
from tfship.serving.protos.status import invalid

__all__ = ["ACTIONS", "ModelPath", "find", "is_in_api", "is_uri"]

ACTIONS = ("classify", "regress", "predict")
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PATTERNS = {
    "POST": re.compile(
        rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<action>{'|'.join(ACTIONS)})", re.IGNORECASE
    ),
    "GET": re.compile(
        rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<action>metadata))?", re.IGNORECASE
    ),
}
_API = re.compile(r"/v1/", re.IGNORECASE)
_CHARACTERS = r"[\w\-.~!$&'()*+,;=:@/?]*(?:%[0-9a-f]{2}[\w\-.~!$&'()*+,;=:@/?]*)*"
_URI = re.compile(rf"{_CHARACTERS}(?:#{_CHARACTERS})?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class ModelPath:
    """A path of the API, split into undecoded parts; "" for a part that it lacks.

    `action` is one of ACTIONS for a POST request, and "metadata" or "" for a GET request.
    """

    name: str
    version: str
    label: str
    action: str

    @property
    def is_empty(self) -> bool:
        """Whether the path is `/v1/models` alone."""
        return self == _EMPTY

    def spec(self) -> Any:
        """Return the ModelSpec. Raises StatusError(INVALID_ARGUMENT) for invalid parts."""
        if not self.name:
            raise invalid("Missing model name in request.")
        spec = model_pb2.ModelSpec(name=_unescape(self.name))
        if self.version:
            number = parse_version(self.version)
            if number is None:
                raise invalid(f"Version {self.version} is larger than an int64")
            spec.version.value = number
        elif self.label:
            spec.version_label = _unescape(self.label)
        return spec


_EMPTY = ModelPath("", "", "", "")
# Most requests repeat one of a few targets. Longer ones aren't kept, so that they can't fill the memory.
_KEPT_TARGETS = 256
_KEPT_LENGTH = 256


def find(method: str, target: str) -> ModelPath | None:
    """Return the parts of `target`, a request's path and query string; None if the API has no such path."""
    return (_find_kept if len(target) <= _KEPT_LENGTH else _find)(method, target)


def _find(method: str, target: str) -> ModelPath | None:
    match = _PATTERNS[method].fullmatch(target) if method in _PATTERNS else None
    if match is None:
        return None
    found = ModelPath(**{name: part or "" for name, part in match.groupdict().items()})
    # TensorFlow Serving's own comparison: /METADATA gets the status.
    return None if method == "POST" and found.action not in ACTIONS else found


def is_in_api(target: str) -> bool:
    """Return whether TensorFlow Serving's REST API answers requests for `target`; if not, its HTTP server does."""
    return _API.match(target) is not None


def is_uri(target: str) -> bool:
    """Return whether libevent accepts `target`: characters of RFC 3986 and complete %-escapes."""
    return (_is_uri_kept if len(target) <= _KEPT_LENGTH else _is_uri)(target)


def _is_uri(target: str) -> bool:
    return _URI.fullmatch(target) is not None


_find_kept = functools.lru_cache(_KEPT_TARGETS)(_find)
_is_uri_kept = functools.lru_cache(_KEPT_TARGETS)(_is_uri)


def _unescape(text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise invalid(f"{text} is not UTF-8") from None
