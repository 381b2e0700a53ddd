"""One request on its way through the server: what it asks for, until when, where its time goes, how it ends."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tfship.serving.metrics.metrics import Metrics
from tfship.serving.protos.status import Code, StatusError

__all__ = ["Call", "Observer"]

log = logging.getLogger("tfship.serving.requests")

_INFERENCE = frozenset({"Predict", "Classify", "Regress", "MultiInference"})


@dataclass
class Call:
    """A request; whoever works on it notes where its time went, in seconds.

    `api` is Predict, Classify, Regress, MultiInference, GetModelMetadata, GetModelStatus or ReloadConfig,
    `entrypoint` REST or GRPC, `deadline` a time of `time.monotonic` or None. `queue` is the time between the
    request's arrival and its turn, `decode` and `encode` what its tensors take from and to bytes, `inference` what
    `runtime`, TF1 or TFLite, takes. `received` and `sent` are bytes without headers.
    """

    api: str
    entrypoint: str
    deadline: float | None = None
    model: str = ""
    begin: float = field(default_factory=time.monotonic)
    queue: float = 0.0
    decode: float = 0.0
    inference: float = 0.0
    encode: float = 0.0
    runtime: str = ""
    examples: int = 0
    received: int = 0
    sent: int = 0

    def starts(self) -> None:
        """Note that it is this request's turn."""
        self.queue = time.monotonic() - self.begin

    def check_deadline(self) -> None:
        """Raise StatusError if nobody waits for the answer any more: then the model isn't run."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")

    def timing(self) -> str:
        """Return where the time went as a Server-Timing header (https://www.w3.org/TR/server-timing/): milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in self._parts().items())

    def fields(self, code: Code) -> dict[str, object]:
        """Return what the log contains of it."""
        return {
            "entrypoint": self.entrypoint,
            "api": self.api,
            "model": self.model,
            "status": code.name,
            "received": self.received,
            "sent": self.sent,
            "milliseconds": {name: round(seconds * 1e3, 3) for name, seconds in self._parts().items()},
        }

    def _parts(self) -> dict[str, float]:
        total = time.monotonic() - self.begin
        parts = {
            "queue": self.queue,
            "decode": self.decode,
            "inference": self.inference,
            "encode": self.encode,
        }
        return {**parts, "total": total}


class Observer:
    """Tells the metrics of every request that ends and, with `logs`, the log."""

    def __init__(self, metrics: Metrics, *, logs: bool) -> None:
        self.metrics = metrics
        self._logs = logs

    @contextlib.contextmanager
    def observing(self, call: Call) -> Iterator[None]:
        """Watch a request until the context ends, as it should or by an error."""
        code = Code.OK
        try:
            with self.metrics.in_flight(call.entrypoint):
                yield
        except StatusError as error:
            code = error.code
            raise
        except BaseException:
            code = Code.INTERNAL
            raise
        finally:
            if self._logs:
                fields = call.fields(code)
                log.info("%s", json.dumps(fields, ensure_ascii=False), extra={"request": fields})
            if call.api in _INFERENCE:
                self._count(call, code)

    def _count(self, call: Call, code: Code) -> None:
        self.metrics.request(
            model=call.model,
            api=call.api,
            entrypoint=call.entrypoint,
            status=code.name,
            seconds=time.monotonic() - call.begin,
            queue=call.queue,
            decode=call.decode,
            inference=call.inference,
            encode=call.encode,
            runtime=call.runtime,
            examples=call.examples,
            received=call.received,
            sent=call.sent,
        )
