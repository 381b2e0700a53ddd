"""gRPC over HTTP/2: messages, deadlines, compression and statuses on the wire.

The rules are those of gRPC's PROTOCOL-HTTP2.md.
"""

import re
import struct
import zlib

from tfship.serving.grpc.http2 import Headers
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["ENCODINGS", "MessageReader", "frame", "seconds", "trailers"]

# Values of grpc-encoding.
ENCODINGS = (b"identity", b"gzip")

_PREFIX = struct.Struct(">?I")
# A message is sent as a header, and gRPC's clients accept 8 KiB of headers.
_MESSAGE_BYTES = 6000
# Smaller messages would hardly become smaller.
_MIN_GZIP_BYTES = 1024
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class MessageReader:
    """The messages in a request's body, in the encoding `encoding`, of at most `limit` bytes each.

    Raises StatusError for messages that are too large, or not in that encoding.
    """

    def __init__(self, encoding: bytes, limit: int) -> None:
        self._gzip = encoding == b"gzip"
        self._limit = limit
        self._data = bytearray()
        self._size: int | None = None
        self._compressed = False
        self.is_partial = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete with the next bytes of the body."""
        if not self._data and self._size is None and len(data) >= 5:
            # The usual case: one message in one piece.
            compressed, size = _PREFIX.unpack_from(data)
            if len(data) == size + 5 and data[0] <= 1:
                self._check_size(size)
                return [self._plain(data[5:], compressed=compressed)]
        found: list[bytes] = []
        if not data:
            return found
        self._data += data
        while True:
            if self._size is None:
                if len(self._data) < 5:
                    break
                if self._data[0] > 1:
                    raise StatusError(Code.INTERNAL, f"Unexpected flag {self._data[0]} before a message")
                self._compressed, self._size = _PREFIX.unpack_from(self._data)
                self._check_size(self._size)
                del self._data[:5]
            if len(self._data) < self._size:
                break
            content = bytes(memoryview(self._data)[: self._size])
            del self._data[: self._size]
            self._size = None
            found.append(self._plain(content, compressed=self._compressed))
        self.is_partial = bool(self._data) or self._size is not None
        return found

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED, f"Received message larger than max ({size} vs. {self._limit})"
            )

    def _plain(self, content: bytes, *, compressed: bool) -> bytes:
        if not compressed:
            return content
        if not self._gzip:
            raise StatusError(Code.INTERNAL, "A compressed message without grpc-encoding")
        decompressor = zlib.decompressobj(wbits=31)
        try:
            plain = decompressor.decompress(content, self._limit + 1)
        except zlib.error:
            raise invalid("The message is not gzip, as grpc-encoding says") from None
        self._check_size(len(plain))
        if not decompressor.eof or decompressor.unused_data:
            raise invalid("The message is not one whole gzip member")
        return plain


def frame(message: bytes, *, gzip: bool = False) -> bytes:
    """Return a message as it is sent, with its prefix; compressed with `gzip` if that is worthwhile."""
    if gzip and len(message) >= _MIN_GZIP_BYTES:
        compressor = zlib.compressobj(1, wbits=31)
        content = compressor.compress(message) + compressor.flush()
        return _PREFIX.pack(True, len(content)) + content
    return _PREFIX.pack(False, len(message)) + message


def seconds(timeout: bytes) -> float:
    """Return the value of grpc-timeout in seconds. Raises StatusError if it is invalid."""
    match = _TIMEOUT.fullmatch(timeout)
    if not match:
        raise StatusError(
            Code.INTERNAL, f"grpc-timeout is {timeout.decode('latin-1')}; expected such as 100m"
        )
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def trailers(code: Code, message: str = "") -> Headers:
    """Return the trailers with a status; the message is cut to 6,000 bytes."""
    status = (b"grpc-status", b"%d" % code)
    return [status, (b"grpc-message", _escaped(message))] if message else [status]


def _escaped(message: str) -> bytes:
    """Return `message` percent-encoded, cut to `_MESSAGE_BYTES`."""
    parts: list[bytes] = []
    left = _MESSAGE_BYTES
    for letter in message:
        plain = " " <= letter <= "~" and letter != "%"
        part = letter.encode() if plain else b"".join(b"%%%02X" % each for each in letter.encode())
        left -= len(part)
        if left < 0:
            return b"".join(parts) + b"%E2%80%A6"  # an ellipsis
        parts.append(part)
    return b"".join(parts)
