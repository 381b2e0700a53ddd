"""Local copies of a servable's versions in object storage, kept up to date by a thread."""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tfship.export.publishing import cards
from tfship.export.storage.cache import VersionCache
from tfship.serving.models import version_policy
from tfship.train.common.errors import ArtifactError, TfshipError, Unreachable

__all__ = ["Mirror"]

log = logging.getLogger(__name__)

# Seconds of attempts at the start, and the first pause between them, which doubles. The number of attempts isn't
# limited instead, since Google Cloud Storage's driver repeats each for over half a minute itself. With copies from an
# earlier start, the shorter time is enough.
_FIRST_SECONDS, _SECONDS_WITH_COPIES, _FIRST_DELAY = 30.0, 3.0, 1.0
_LONGEST_DELAY = 60.0
_SECONDS_BETWEEN_LINES = 10.0
# A request in flight isn't waited for.
_LONGEST_JOIN = 2.0


class _Stopped(Exception):  # noqa: N818 - not an error
    """The server stops."""


class Mirror:
    """Copies of the versions that `policy`, a ServableVersionPolicy, selects for the model `name`, in `cache`.

    Only complete versions whose files have the hashes in their export card are copied. While the storage can't be
    reached, or holds no usable version, the copies stay as they are. `in_use` returns the numbers of the versions that
    mustn't be removed. `stopping` ends downloads.
    """

    def __init__(
        self,
        name: str,
        cache: VersionCache,
        policy: Any,
        poll_seconds: float,
        stopping: threading.Event,
        in_use: Callable[[], Collection[int]],
    ) -> None:
        self._name, self._cache, self._url = name, cache, cache.servable.url
        self._poll_seconds, self._stopping, self._in_use = poll_seconds, stopping, in_use
        self._closing = threading.Event()
        self._policy = policy
        # Held while versions are looked for and copied.
        self._syncing = threading.Lock()
        self._copied: dict[int, Path] = {}
        self._found: dict[int, Path] = {}
        # For each version that can't be copied: when it is tried again, and the delay after that.
        self._unusable: dict[int, tuple[float, float]] = {}
        self._problems: dict[int, str] = {}
        self._started = threading.Event()
        self._failure: TfshipError | None = None
        self._thread = threading.Thread(target=self._run, name=f"mirror {name}", daemon=True)

    def start(self) -> None:
        """Copy the selected versions, and look for new ones from then on.

        An unreachable storage is tried again for half a minute. If there are copies from an earlier start, they are
        then used. Returns early if the server stops. Raises TfshipError.
        """
        self._thread.start()
        # A request to a storage that doesn't respond can't be interrupted, but the server can stop meanwhile.
        while not (self._started.wait(0.1) or self._stopping.is_set()):
            pass
        if self._failure:
            raise self._failure

    def scan(self) -> dict[int, Path]:
        """Return the directories of the selected versions by number."""
        return dict(self._found)

    def close(self) -> None:
        """Stop looking for versions, and release the copies."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_JOIN)
        self._cache.close()

    def sync(self, policy: Any) -> None:
        """Copy the versions that `policy` selects now, and remove those that aren't selected or in use.

        A version that isn't complete, or differs from its card, is left out, and older ones take its place. Raises
        TfshipError, and ArtifactError if no version can be used.
        """
        with self._syncing:
            remote = self._cache.servable.numbers()
            for known in (self._copied, self._unusable, self._problems):
                for number in known.keys() - remote.keys():
                    del known[number]
            now = time.monotonic()
            usable = {
                n: folder for n, folder in remote.items() if now >= self._unusable.get(n, (0.0, 0.0))[0]
            }
            while (bad := self._copy_all(chosen := version_policy.choose(policy, usable))) is not None:
                del usable[bad]
            if not chosen:
                raise ArtifactError(self._nothing(remote))
            self._found, self._policy = {number: self._copied[number] for number in chosen}, policy
            for number in self._cache.keep({*self._found, *self._in_use()}):
                log.info("model %s version %d: removed the local copy", self._name, number)
                self._copied.pop(number, None)

    def _copy_all(self, chosen: dict[int, str]) -> int | None:
        """Copy the versions, newest first; return the number of the first that can't be used, None if all can."""
        for number, folder in reversed(chosen.items()):
            if (path := self._copied.get(number)) and path.is_dir():
                continue
            try:
                self._copied[number] = self._copy(number, folder)
            except ArtifactError as error:
                if self._problems.get(number) != str(error):
                    log.warning("model %s version %d: not loaded: %s", self._name, number, error)
                self._problems[number] = str(error)
                return number
            self._unusable.pop(number, None)
            self._problems.pop(number, None)
        return None

    def _copy(self, number: int, folder: str) -> Path:
        if self._cache.servable.card(folder) is None:
            raise ArtifactError(
                f"{self._url}/{folder} holds no {cards.CARD}: it isn't complete yet, or not from tfship export"
            )
        begin = last = time.monotonic()
        total = 0

        def advance(count: int) -> None:
            nonlocal last, total
            if self._stopping.is_set() or self._closing.is_set():
                raise _Stopped
            total += count
            if (now := time.monotonic()) - last >= _SECONDS_BETWEEN_LINES:
                last = now
                log.info("model %s version %d: downloaded %.1f MB", self._name, number, total / 1e6)

        try:
            path, downloaded = self._cache.fetch(number, folder, advance)
        except ArtifactError:
            # The whole version is downloaded at each attempt.
            _, delay = self._unusable.get(number, (0.0, max(1.0, self._poll_seconds)))
            self._unusable[number] = time.monotonic() + delay, min(2 * delay, _LONGEST_DELAY)
            raise
        what = f"downloaded {total / 1e6:.1f} MB from" if downloaded else "using the local copy of"
        seconds = time.monotonic() - begin
        log.info(
            "model %s version %d: %s %s/%s in %.2f s", self._name, number, what, self._url, folder, seconds
        )
        return path

    def _run(self) -> None:
        try:
            self._first()
        except _Stopped:
            return
        except TfshipError as error:
            self._failure = error
            return
        except Exception as error:  # start() must not hang after an unexpected error
            self._failure = ArtifactError(f"{self._url}: can't be copied ({type(error).__name__}: {error})")
            log.debug("unexpected", exc_info=True)
            return
        finally:
            self._started.set()
        if self._poll_seconds:
            self._watch()

    def _first(self) -> None:
        end = time.monotonic() + (_SECONDS_WITH_COPIES if self._cache.versions() else _FIRST_SECONDS)
        delay = _FIRST_DELAY
        while True:
            try:
                return self.sync(self._policy)
            except Unreachable as error:
                if time.monotonic() >= end:
                    return self._use_copies(error)
                log.warning("model %s: %s; next try in %d s", self._name, error, delay)
                if self._stopping.wait(delay):
                    raise _Stopped from None
                delay *= 2

    def _use_copies(self, error: Unreachable) -> None:
        intact = {number: path for number, path in self._cache.versions().items() if not cards.damage(path)}
        self._found = version_policy.choose(self._policy, intact)
        if not self._found:
            raise error
        log.warning("model %s: %s; serving the copies of an earlier start", self._name, error)

    def _nothing(self, remote: dict[int, str]) -> str:
        if not remote:
            return f"{self._url}: holds no integer-named version; upload one with `tfship export --publish`"
        reasons = "; ".join(dict.fromkeys(self._problems.values()))
        return (
            f"{self._url}: none of the versions {', '.join(map(str, remote))} can be used"
            + f": {reasons}" * bool(reasons)
        )

    def _watch(self) -> None:
        delays = self._delays()
        failed = ""
        while not (self._stopping.is_set() or self._closing.wait(next(delays))):
            try:
                self.sync(self._policy)
            except _Stopped:
                return
            except TfshipError as error:
                if str(error) != failed:
                    log.warning("model %s: %s; serving the loaded versions", self._name, error)
                failed = str(error)
            except Exception:  # the thread must go on; the next check may succeed
                log.exception("unexpected error while looking for versions in %s", self._url)
            else:
                if failed:
                    log.info("model %s: %s can be read again", self._name, self._url)
                failed, delays = "", self._delays()

    def _delays(self) -> Iterator[float]:
        """Yield the seconds before each check while checks fail: doubled, with jitter, since servers fail together."""
        seconds = self._poll_seconds
        yield seconds
        while True:
            seconds = min(2 * seconds, max(_LONGEST_DELAY, self._poll_seconds))
            yield seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
