"""Time of one served request by part: the client's, those that the server reports, and the network between."""

import contextlib
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
# The server's parts, by their names in its Server-Timing header.
_SERVER = {"queue": "queue", "decode": "server_decode", "inference": "inference", "encode": "server_encode"}


def measure(
    subject: Subject, contract: Contract, images: Sequence[bytes], count: int
) -> dict[str, float] | None:
    """Return the medians of the parts of `count` requests in microseconds, or None if the server reports no timings.

    Each request has one of the encoded `images`, preprocessed by `contract` unless the server does that. `network` is
    the part of the response time that the server doesn't report: network, HTTP or gRPC, sockets at both ends.
    """
    if subject.sender is None:
        raise ResultError(f"{subject.name}: not served; expected a row of a server")
    parts: dict[str, list[float]] = {}
    with contextlib.closing(subject.sender()) as sender:
        for number in range(_WARM_UP + count):
            image = images[number % len(images)]
            begin = time.perf_counter()
            query = (
                as_query(image) if subject.encoded else preprocessing.from_bytes(image, contract)[np.newaxis]
            )
            prepared = time.perf_counter()
            request = sender.encode(query)
            encoded = time.perf_counter()
            content, timing = sender.send(request)
            received = time.perf_counter()
            sender.decode(content, 1).argmax()
            end = time.perf_counter()
            if not timing.keys() >= {*_SERVER, "total"}:
                return None
            if number < _WARM_UP:
                continue
            for name, seconds in {
                "prepare": prepared - begin,
                "encode": encoded - prepared,
                "network": received - encoded - timing["total"],
                **{ours: timing[theirs] for theirs, ours in _SERVER.items()},
                "decode": end - received,
            }.items():
                parts.setdefault(name, []).append(seconds)
    return {name: round(statistics.median(each) * 1e6, 1) for name, each in parts.items()}
