"""Logging to stdout: one line or JSON object per message, with time, level, process and logger."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["FORMATS", "configure"]

FORMATS = ("text", "json")


def configure(form: str, worker: int | None = None) -> None:
    """Configure logging to stdout: the server's messages from level INFO, those of libraries from WARNING.

    `form` is one of FORMATS. `worker` is the number of the worker process, None in the main process.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Json(worker) if form == "json" else _Text(worker))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("tfship.serving").setLevel(logging.INFO)
    # On a full disk or a closed pipe, messages are dropped silently: the server goes on.
    logging.raiseExceptions = False


class _Text(logging.Formatter):
    """Formatter of lines such as `2026-11-29T16:20:01.123Z INFO server tfship.serving: ready`."""

    def __init__(self, worker: int | None) -> None:
        process = "server" if worker is None else f"worker-{worker}"
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time of a message in UTC, as ISO 8601 with milliseconds."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class _Json(_Text):
    """Formatter of JSON objects with `time`, `level`, `worker` (null: main process), `logger`, `message`, `exception`.

    Log records of requests have their fields in `request` instead of `message`.
    """

    def __init__(self, worker: int | None) -> None:
        super().__init__(worker)
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        request: dict[str, object] | None = getattr(record, "request", None)
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "worker": self._worker,
            "logger": record.name,
            **({"request": request} if request else {"message": record.getMessage()}),
            **({"exception": self.formatException(record.exc_info)} if record.exc_info else {}),
        }
        return json.dumps(fields, ensure_ascii=False)
