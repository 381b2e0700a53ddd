"""Lazy import of TensorFlow, with its log output suppressed."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tfship.train.common import interruption
from tfship.train.common.quick_import import uncollected

__all__ = ["WITHOUT_KERAS", "preload", "quiet", "tensorflow"]

# Environment of processes that need TensorFlow without Keras: TensorFlow then doesn't import Keras, and takes a third
# of the time. Not for processes that run users' code, where `tensorflow.keras` would be Keras 2.
WITHOUT_KERAS = {"TF_USE_LEGACY_KERAS": "1"}


def tensorflow() -> Any:
    """Import TensorFlow without log output and return it. Takes seconds and about 500 MB the first time."""
    global _must_look
    # Several threads may load models: only one may redirect stderr, and none may see a partly imported module.
    with _importing:
        if "tensorflow" not in sys.modules:
            preload()
        tf = sys.modules["tensorflow"]
        if _must_look:
            with quiet():
                # Looks for devices here, where its messages about missing ones are suppressed.
                tf.config.list_physical_devices()
            _must_look = False
        return tf


_importing = threading.RLock()
# Whether `tensorflow` must still look for devices, after `preload`.
_must_look = False


def preload() -> None:
    """Import TensorFlow without a thread or a GPU's driver, which child processes wouldn't have after a fork."""
    global _must_look
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Otherwise TensorFlow reserves all of a GPU's memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with interruption.loading(), quiet(), _hidden(), uncollected():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    _must_look = True


# TensorFlow and Keras import these if they are installed, for wrappers and plots that tfship doesn't use. That takes
# 1.6 of 4.3 s.
_UNUSED = ("matplotlib", "pandas", "sklearn")


@contextlib.contextmanager
def _hidden() -> Iterator[None]:
    """Make imports of `_UNUSED` packages that aren't loaded yet fail, as if they weren't installed."""
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Capture what native code writes to stderr, whatever the log level; yield a function that returns it so far.

    If the body raises, the captured text is written to stderr, since it may contain the reason. For commands with one
    thread, since the output of other threads is captured too.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)

        def text() -> str:
            captured.seek(0)
            return captured.read().decode(errors="replace")

        try:
            yield text
        except BaseException:
            os.write(original, text().encode())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
