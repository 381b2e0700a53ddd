"""Per-request context: model, deadline, timings, status."""

import contextlib
import json
import logging
import time
from dataclasses import dataclass, field

from tfship.serving.metrics.metrics import Metrics
from tfship.serving.protos.status import Code, StatusError

__all__ = ["Call", "Observer"]

log = logging.getLogger("tfship.serving.requests")

_INFERENCE = frozenset({"Predict", "Classify", "Regress", "MultiInference", "ModelInfer"})


@dataclass(slots=True)
class Call:
    """A request and its timings in seconds, filled in by the functions that process it.

    `api` is Predict, Classify, Regress, MultiInference, ModelInfer, GetModelMetadata, GetModelStatus or ReloadConfig.
    `entrypoint` is REST or GRPC, `deadline` a time of `time.monotonic()` or None. `version` is the version of `model`
    in use, None before it is known. `queue` is the time from arrival to the start of processing. `decode` and `encode`
    are the conversions of tensors from and to bytes. `inference` is the time in `runtime`, TF1 or TFLite. `received`
    and `sent` are bytes without headers.
    """

    api: str
    entrypoint: str
    deadline: float | None = None
    model: str = ""
    version: int | None = None
    begin: float = field(default_factory=time.monotonic)
    queue: float = 0.0
    decode: float = 0.0
    inference: float = 0.0
    encode: float = 0.0
    runtime: str = ""
    examples: int = 0
    received: int = 0
    sent: int = 0

    def note_start(self) -> None:
        """Record the start of processing."""
        self.queue = time.monotonic() - self.begin

    def check_deadline(self) -> None:
        """Raise StatusError(DEADLINE_EXCEEDED) if the deadline has passed, before the model runs."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")

    def timing(self) -> str:
        """Return the timings (ms) as a Server-Timing header (https://www.w3.org/TR/server-timing/)."""
        return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in self._parts().items())

    def fields(self, code: Code) -> dict[str, object]:
        """Return the request's fields for the log; `code` is its status."""
        return {
            "entrypoint": self.entrypoint,
            "api": self.api,
            "model": self.model,
            "version": self.version,
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
    """Reports every ended request to `metrics` and, with `logs`, to the log."""

    def __init__(self, metrics: Metrics, *, logs: bool) -> None:
        self.metrics = metrics
        self._logs = logs

    def observing(self, call: Call) -> contextlib.AbstractContextManager[object]:
        """Return a context manager that reports `call` when the context ends, normally or by an error."""
        return _Observation(self, call) if self._logs or self.metrics.path else _NOTHING

    def end(self, call: Call, code: Code) -> None:
        """Report a request that has ended with `code`."""
        if self._logs:
            fields = call.fields(code)
            log.info("%s", json.dumps(fields, ensure_ascii=False), extra={"request": fields})
        if call.api in _INFERENCE:
            self._count(call, code)

    def _count(self, call: Call, code: Code) -> None:
        self.metrics.request(
            model=call.model,
            version="" if call.version is None else str(call.version),
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


_NOTHING = contextlib.nullcontext()


class _Observation(contextlib.AbstractContextManager[None]):
    def __init__(self, observer: Observer, call: Call) -> None:
        self._observer, self._call = observer, call
        self._flight = observer.metrics.in_flight(call.entrypoint)

    def __enter__(self) -> None:
        self._flight.__enter__()

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        self._flight.__exit__(None, None, None)
        code = Code.OK if error is None else Code.INTERNAL
        self._observer.end(self._call, error.code if isinstance(error, StatusError) else code)
