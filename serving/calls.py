"""One request on its way through the server: what it asks for, until when, and where its time goes."""

import time
from dataclasses import dataclass, field

from serving.status import Code, StatusError

__all__ = ["Call"]


@dataclass
class Call:
    """A request; the runtime's side of the server fills in where its time went, in seconds.

    `api` is Predict, Classify, Regress, MultiInference, GetModelMetadata, GetModelStatus or ReloadConfig,
    `entrypoint` REST or GRPC, `deadline` a time of `time.monotonic` or None. `queue` is the time between the
    request's arrival and its turn, `decode` and `encode` what its tensors take from and to bytes.
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

    def starts(self) -> None:
        """Note that it is this request's turn."""
        self.queue = time.monotonic() - self.begin

    def check_deadline(self) -> None:
        """Raise StatusError if nobody waits for the answer any more: then the model isn't run."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")

    def timings(self) -> dict[str, float]:
        """Return the parts and `total`, up to now, in seconds."""
        return {
            "queue": self.queue,
            "decode": self.decode,
            "inference": self.inference,
            "encode": self.encode,
            "total": time.monotonic() - self.begin,
        }
