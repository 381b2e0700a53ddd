"""A `--model_config_file` that is looked at again while the server runs."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfship.serving.models.config import read_config
from tfship.serving.protos.status import StatusError
from tfship.train.common.errors import UsageError

__all__ = ["ConfigFile"]

log = logging.getLogger(__name__)


class ConfigFile:
    """Looks at a config file every `seconds` and hands what has changed to `reload`.

    What can't be read or served is logged, once, and changes nothing: what is served goes on.
    """

    def __init__(self, path: Path, seconds: float, reload: Callable[[Any], None]) -> None:
        self._path, self._seconds, self._reload = path, seconds, reload
        self._seen = _content(path)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="config", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; return when a reload that has begun is done."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            content = _content(self._path)
            if content == self._seen:
                continue
            self._seen = content
            try:
                self._reload(read_config(self._path))
            except (UsageError, StatusError) as error:
                log.warning("%s has changed, but isn't taken: %s", self._path, error)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
