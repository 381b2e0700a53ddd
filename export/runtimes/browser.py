"""Runtime for TFLite files in a browser: LiteRT.js in headless Chromium, driven by Playwright.

The files are those of `export.conversion.web_file`. The browser loads them with the same module as the web page, so
verified and measured results are those of the page.
"""

import base64
import contextlib
import functools
import importlib.util
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes import web_build
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Signature
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.tensorflow_loader import quiet

__all__ = [
    "CHROMIUM",
    "DTYPES",
    "Browser",
    "BrowserModel",
    "open_model",
    "program",
    "unavailable",
    "webgpu_refusal",
]

# Environment variable with the browser's path; empty: there is none.
CHROMIUM = "TFSHIP_CHROMIUM"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Requests to this origin are answered by this process. HTTPS, because only secure origins may use threads.
_ORIGIN = "https://tfship.invalid"
_PAGE = b'<!doctype html><title>tfship</title><script type="module" src="harness.js"></script>'
# On Linux, Chromium offers WebGPU only if it is asked to.
_WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")
# Longest wait for the browser, for a model to load, and for a batch.
_SECONDS = 120.0
# A batch is sent as one text.
_BATCH_BYTES = 1 << 22
# The dtypes that LiteRT.js takes, by TensorFlow's DataType number.
DTYPES = {1: "float32", 3: "int32", 4: "uint8"}


def unavailable() -> str:
    """Return why no browser can run models here; empty if one can."""
    try:
        _requirements("a browser")
    except UsageError as error:
        return str(error)
    return ""


def program() -> str:
    """Return the path of the installed Chromium, or that of the variable `CHROMIUM`; empty if there is none."""
    named = os.environ.get(CHROMIUM)
    if named is not None:
        return named
    return next(filter(None, map(shutil.which, _PROGRAMS)), "")


def _requirements(what: str) -> tuple[str, Path]:
    """Return the browser's path and the folder of the built files. Raises UsageError if something is missing."""
    if importlib.util.find_spec("playwright") is None:
        raise cli.missing(what, "playwright", "web")
    found = program()
    if not found:
        raise UsageError(
            f"{what} needs Chromium, which isn't installed; install it, or set {CHROMIUM} to its path"
        )
    return found, web_build.built(what)


class Browser:
    """A headless Chromium with LiteRT.js on one thread, on `threads`, one per core, or on `webgpu` if it has that.

    `version` is the browser's name and version, `name` the runtime's: "WASM", "WASM threads" or "WebGPU". Its methods
    may be called from any thread. Raises UsageError if Playwright, Chromium or the built files are missing, and
    ArtifactError if the browser doesn't start.
    """

    def __init__(self, *, threads: bool = False, webgpu: bool = False) -> None:
        path, folder = _requirements("the target web")
        self._files = web_build.files(folder)
        self._models: dict[str, Path] = {}
        # Playwright's objects belong to one thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._driver: Any = None
        self._options = {"threads": threads, "webgpu": webgpu}
        try:
            self.version, self.name = self._thread.submit(self._start, path).result()
        except BaseException:
            self.close()
            raise

    def load(self, path: Path) -> "BrowserModel":
        """Load a TFLite file. Raises ArtifactError if LiteRT or LiteRT.js refuses it."""
        # LiteRT.js reports neither the public names nor the quantization of tensors.
        with quiet():  # LiteRT prints a line about its delegate
            native = LiteRT(path)
        signatures = native.signatures
        native.close()
        url = f"{_ORIGIN}/models/{len(self._models)}.tflite"
        self._models[url] = path
        unscaled = {"quantization": None}
        number = self.call(
            "load", f"{path}: LiteRT.js can't load it", url, {"input": unscaled, "output": unscaled}
        )
        return BrowserModel(self, int(number), path, signatures)

    def call(self, function: str, failure: str, *arguments: Any) -> Any:
        """Return the result of a function of `client/web/src/harness.js`.

        Raises ArtifactError, which begins with `failure`, if it fails, doesn't end, or if the page crashes.
        """
        return self._thread.submit(self._call, function, failure, arguments).result()

    def close(self) -> None:
        """End the browser."""
        if self._driver is not None:
            self._thread.submit(self._driver.stop).result()
            self._driver = None
        self._thread.shutdown()

    def _start(self, path: str) -> tuple[str, str]:
        from playwright.sync_api import Error, sync_playwright

        self._driver = sync_playwright().start()
        self._error: type[Exception] = Error
        try:
            self._browser = self._driver.chromium.launch(
                executable_path=path,
                args=["--disable-background-networking", *(_WEBGPU if self._options["webgpu"] else [])],
                handle_sigint=False,
                handle_sigterm=False,
            )
            self._page: Any = None
            return f"Chromium {self._browser.version}", self._open()
        except Error as error:
            raise ArtifactError(f"{path}: the browser doesn't start ({_first_line(error)})") from error

    def _open(self) -> str:
        """Open a page with LiteRT.js, and return the runtime's name."""
        self._page = self._browser.new_page()
        self._page.context.route("**/*", self._respond)
        self._page.goto(f"{_ORIGIN}/")
        self._page.wait_for_function("() => window.tfship")
        return str(self._call("start", "LiteRT.js doesn't start", (self._options,)))

    def _call(self, function: str, failure: str, arguments: tuple[Any, ...]) -> Any:
        # Started and then polled, because only the polling has a time limit.
        start = """([name, values]) => {
            window.outcome = null;
            setTimeout(async () => {
                try { window.outcome = { value: await window.tfship[name](...values) }; }
                catch (error) { window.outcome = { error: String(error?.message ?? error) }; }
            });
        }"""
        try:
            if self._page is None:  # the last one has crashed, or was given up
                self._open()
            self._page.evaluate(start, [function, list(arguments)])
            handle = self._page.wait_for_function("() => window.outcome", timeout=_SECONDS * 1e3)
            outcome = handle.json_value()
        except self._error as error:
            # It may still be computing, or be gone with all its models.
            page, self._page = self._page, None
            if page is not None:
                page.close()
            raise ArtifactError(f"{failure} ({_first_line(error)})") from error
        if "error" in outcome:
            raise ArtifactError(f"{failure} ({outcome['error']})")
        return outcome["value"]

    def _respond(self, route: Any) -> None:
        """Answer a request of the page: a built file, a model, or nothing else."""
        url = route.request.url
        if (model := self._models.get(url)) is not None:
            route.fulfill(body=model.read_bytes(), content_type="application/octet-stream")
            return
        name = url.removeprefix(f"{_ORIGIN}/")
        path = self._files.get(name)
        if name and path is None:
            route.abort()
            return
        body = _PAGE if path is None else web_build.read(path)
        headers = {**web_build.HEADERS, "content-type": web_build.media_type(name or "index.html")}
        route.fulfill(body=body, headers=headers)


class BrowserModel:
    """A TFLite file in a browser; a `Runtime`. Batches of any size are run image by image."""

    def __init__(
        self, browser: Browser, number: int, path: Path, signatures: Mapping[str, Signature]
    ) -> None:
        self._browser, self._number, self._path, self._signatures = browser, number, path, signatures

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The file's signature definitions."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        ((output, spec),) = self._signatures[signature].outputs.items()
        (images,) = inputs.values()
        rows = max(1, _BATCH_BYTES // max(images[:1].nbytes, 1))
        parts = [self._run(images[start : start + rows]) for start in range(0, len(images), rows)]
        return {output: np.concatenate(parts).astype(DTYPES[spec.dtype])}

    def hold(self, images: NDArray[Any]) -> None:
        """Keep the rows of an input tensor in the page, for `measure`."""
        self._browser.call("hold", str(self._path), self._number, _text(images), len(images))

    def measure(self, start: int, repeats: int, warmup: int) -> list[float]:
        """Return the milliseconds of `repeats` inferences, tensor in and tensor out, after `warmup` others.

        They use the held rows in turn, from row `start`. The browser's clock has steps of 5 µs.
        """
        times: list[float] = self._browser.call(
            "measure", str(self._path), self._number, start, repeats, warmup
        )
        return times

    def close(self) -> None:
        """Free the model's memory, and end a shared browser without other models."""
        try:
            self._browser.call("unload", str(self._path), self._number)
        finally:
            _SHARED.end_use(self._browser)

    def _run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        text = self._browser.call("run", str(self._path), self._number, _text(images), len(images))
        return np.frombuffer(base64.b64decode(text), np.float32).reshape(len(images), -1)


@functools.cache
def webgpu_refusal(path: Path) -> str:
    """Return why a TFLite file can't be run on WebGPU here; empty if it can."""
    try:
        with contextlib.closing(Browser(webgpu=True)) as browser:
            if browser.name != "WebGPU":
                return f"{browser.version} has no WebGPU here"
            browser.load(path)
    except (ArtifactError, UsageError) as error:
        return str(error)
    return ""


class _SharedBrowser:
    """The browser of all models that `open_model` opens; it runs while there are any."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._browser: Browser | None = None

    def use(self) -> Browser:
        with self._lock:
            self._browser = self._browser or Browser()
            self._users += 1
            return self._browser

    def end_use(self, browser: Browser) -> None:
        """Note that a model of `browser`, which may be another one, was closed."""
        with self._lock:
            if browser is not self._browser:
                return
            self._users -= 1
            if not self._users:
                self._browser = None
                browser.close()


_SHARED = _SharedBrowser()


def open_model(path: Path) -> BrowserModel:
    """Load a TFLite file in a browser that models of this process share. Raises what `Browser` and its `load` do."""
    browser = _SHARED.use()
    try:
        return browser.load(path)
    except BaseException:
        _SHARED.end_use(browser)
        raise


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
