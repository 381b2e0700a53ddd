"""Where the time of one served request goes, part by part: the client's, the server's own account, the way between."""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from tfship.benchmarks.suite.system_under_test import Subject, as_query
from tfship.client.images import preprocessing
from tfship.export.preprocessing.input_contract import Contract
from tfship.train.common.errors import ResultError

__all__ = ["measure"]

_WARM_UP = 20
# The server's parts by the names in its Server-Timing header.
_SERVER = {"queue": "queue", "decode": "server_decode", "inference": "inference", "encode": "server_encode"}


def measure(
    subject: Subject, contract: Contract, pictures: Sequence[bytes], count: int
) -> dict[str, float] | None:
    """Return the medians of `count` requests' parts in microseconds, or None if the server tells no timings.

    Each request is an encoded picture, prepared by `contract` unless the server does that. `network` is the time
    between sending and answer that the server doesn't account for: the network, HTTP or gRPC, both ends' sockets.
    """
    if subject.sender is None:
        raise ResultError(f"{subject.name}: not served, so no request has parts")
    sender = subject.sender()
    parts: dict[str, list[float]] = {}
    try:
        for number in range(_WARM_UP + count):
            picture = pictures[number % len(pictures)]
            begin = time.perf_counter()
            query = (
                as_query(picture)
                if subject.encoded
                else preprocessing.from_bytes(picture, contract)[np.newaxis]
            )
            prepared = time.perf_counter()
            request = sender.encoded(query)
            encoded = time.perf_counter()
            content, timing = sender.send(request)
            answered = time.perf_counter()
            sender.understood(content, 1).argmax()
            end = time.perf_counter()
            if not timing.keys() >= {*_SERVER, "total"}:
                return None
            if number < _WARM_UP:
                continue
            for name, seconds in {
                "prepare": prepared - begin,
                "encode": encoded - prepared,
                "network": answered - encoded - timing["total"],
                **{ours: timing[theirs] for theirs, ours in _SERVER.items()},
                "decode": end - answered,
            }.items():
                parts.setdefault(name, []).append(seconds)
    finally:
        sender.close()
    return {name: round(statistics.median(each) * 1e6, 1) for name, each in parts.items()}
