"""The web page in headless Chromium, on a phone and a desktop, with a real server."""

import contextlib
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from conftest import ROOT
from serving_fixtures import config_of
from tfship.export.conversion import formats
from tfship.export.publishing import cards
from tfship.export.runtimes import web_build
from tfship.export.runtimes.web_build import HEADERS
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

SEVEN = ROOT / "client" / "samples" / "seven.png"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "device_scale_factor": 2,
}
# Corners of a 7 and of a 1 as shares of the canvas.
A_SEVEN = [(0.28, 0.2), (0.72, 0.2), (0.45, 0.85)]
A_ONE = [(0.5, 0.12), (0.5, 0.88)]
# The rows of the table.
FORMATS = list(formats.FORMATS)
ALL = [*FORMATS, "server"]
# The browser's own remark about a request that fails, and LiteRT.js' about a missing GPU.
REMARKS = ("Failed to load resource", "No available adapters.", "Failed to create default WebGPU device")


class Server:
    """A server with the page, which can stop and start again on its port."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.port = ANY_PORT
        self._server: ModelServer | None = None

    def start(self) -> None:
        paths = {path.name: path for path in sorted(self.models.iterdir()) if (path / "1").is_dir()}
        settings = Settings(
            grpc_port=ANY_PORT,
            rest_port=self.port,
            loader=Loader(prefer_tflite=True),
            loading=LoadPolicy(poll_seconds=0.1),
            web_folder=web_build.built("the test"),
            tells_timing=True,
        )
        self._server = ModelServer(config_of(**paths), settings)
        self._server.start()
        self.port = self._server.rest_port

    def stop(self) -> None:
        if self._server:
            self._server.stop(5)
            self._server = None


@pytest.fixture
def server(models: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of both networks, whose versions a test may change."""
    for name in ("nn", "cnn"):
        shutil.copytree(models / name, tmp_path / "models" / name)
    found = Server(tmp_path / "models")
    found.start()
    yield found
    found.stop()


class Visit:
    """An open page; `close` checks that it reported no error and requested nothing from elsewhere."""

    def __init__(self, chrome: Browser, server: Server, query: str = "", **options: Any) -> None:
        self.context = chrome.new_context(**(options or DESKTOP))
        self.page: Page = self.context.new_page()
        self.origin = f"http://127.0.0.1:{server.port}"
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on(
            "console", lambda each: self.said.append(each.text) if each.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda each: self._note(each.url))
        self.page.set_default_timeout(300_000)
        self._query = query

    def _note(self, url: str) -> None:
        if not url.startswith((self.origin, "blob:", "data:")):
            self.elsewhere.append(url)

    def open(self) -> "Visit":
        self.page.goto(f"{self.origin}/web/{self._query}")
        return self

    def close(self) -> None:
        self.context.close()
        assert [each for each in self.said if not each.startswith(REMARKS)] == []
        assert self.elsewhere == []

    def ready(self, rows: Sequence[str]) -> None:
        """Wait until these rows are ready."""
        for row in rows:
            self.page.wait_for_selector(f'tr[data-row="{row}"][data-state="ready"]')

    def draw(self, corners: Sequence[tuple[float, float]], *, touch: bool = False) -> None:
        """Draw a stroke with the mouse, or with a finger."""
        box = self.page.locator("#pad").bounding_box()
        assert box is not None
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        if touch:
            self._touch(points)
            return
        mouse = self.page.mouse
        mouse.move(*points[0])
        mouse.down()
        for point in points[1:]:
            mouse.move(*point, steps=12)
        mouse.up()

    def _touch(self, points: Sequence[tuple[float, float]]) -> None:
        session = self.context.new_cdp_session(self.page)
        path = [
            (x0 + (x1 - x0) * step / 12, y0 + (y1 - y0) * step / 12)
            for (x0, y0), (x1, y1) in itertools.pairwise(points)
            for step in range(13)
        ]
        for number, (x, y) in enumerate(path):
            kind = "touchMove" if number else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def answers(self, label: str, rows: Sequence[str]) -> None:
        """Wait until these rows answer `label` and agree."""
        self.page.wait_for_function(
            """([label, rows]) => rows.every((row) => {
                const line = document.querySelector(`tr[data-row="${row}"]`);
                const answer = line?.querySelector('[data-cell="answer"]')?.textContent ?? "";
                return answer.trim().startsWith(label) && line.querySelector('[data-agrees="true"]');
            })""",
            arg=[label, list(rows)],
        )

    def status(self, words: str) -> None:
        """Wait until the status line contains `words`."""
        self.page.wait_for_function(
            "(words) => document.querySelector('#status').textContent.includes(words)", arg=words
        )

    @property
    def best(self) -> str:
        return self.page.inner_text("#best")

    @property
    def scrolls(self) -> bool:
        wide: bool = self.page.evaluate(
            "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wide


@contextlib.contextmanager
def visiting(chrome: Browser, server: Server, query: str = "", **options: Any) -> Iterator[Visit]:
    visit = Visit(chrome, server, query, **options)
    try:
        yield visit.open()
    except BaseException:
        visit.context.close()
        raise
    visit.close()


@pytest.mark.parametrize(("device", "touch"), [(DESKTOP, False), (PHONE, True)], ids=["desktop", "phone"])
def test_every_format_and_the_server_answer_strokes(
    chrome: Browser, server: Server, device: dict[str, Any], touch: bool
) -> None:
    with visiting(chrome, server, "?model=cnn", **device) as visit:
        visit.ready(FORMATS)
        visit.draw(A_SEVEN, touch=touch)
        visit.answers("7", ALL)
        assert visit.best == "7"
        assert not visit.scrolls
        assert visit.page.evaluate("() => crossOriginIsolated")
        visit.page.click("#clear")
        visit.draw(A_ONE, touch=touch)
        visit.answers("1", ALL)
        # Another model, by the menu.
        visit.page.select_option("#model", "nn")
        visit.ready(FORMATS)
        visit.answers("1", ALL)
        assert visit.page.url.endswith("?model=nn")


def test_the_browser_gives_the_servers_scores(chrome: Browser, server: Server) -> None:
    """What the page sends is what it computes with: the server's answer equals float32's to the shown digits."""
    with visiting(chrome, server, "?model=cnn") as visit:
        visit.ready(FORMATS)
        visit.page.set_input_files("#file", SEVEN)
        visit.answers("7", ALL)
        cells = [
            visit.page.inner_text(f'tr[data-row="{row}"] [data-cell="answer"]')
            for row in ("float32", "server")
        ]
        assert cells[0] == cells[1]
        assert "%" in cells[0]


def test_without_isolation_one_thread_answers(chrome: Browser, server: Server) -> None:
    """A proxy may drop the headers that isolate the page from other origins."""
    visit = Visit(chrome, server, "?model=nn")

    def bare(route: Route) -> None:
        response = route.fetch()
        kept = {
            name: value for name, value in response.headers.items() if not name.startswith("cross-origin")
        }
        route.fulfill(response=response, headers=kept)

    visit.page.route("**/web/**", bare)
    visit.open()
    visit.ready(FORMATS)
    assert not visit.page.evaluate("() => crossOriginIsolated")
    visit.draw(A_ONE)
    visit.answers("1", ALL)
    assert visit.page.inner_text("#runtime").endswith("LiteRT.js on WASM.")
    visit.close()


def test_a_server_that_stops_and_comes_back(chrome: Browser, server: Server) -> None:
    with visiting(chrome, server, "?model=nn") as visit:
        visit.ready(FORMATS)
        server.stop()
        visit.status("server")
        trouble = visit.page.inner_text("#status")
        visit.draw(A_ONE)
        visit.answers("1", FORMATS)  # the browser still answers
        server.start()
        visit.page.wait_for_function(
            "(trouble) => document.querySelector('#status').textContent !== trouble", arg=trouble
        )
        visit.answers("1", ALL)


def test_a_version_that_is_swapped(chrome: Browser, server: Server) -> None:
    base = server.models / "nn"
    with visiting(chrome, server, "?model=nn") as visit:
        visit.ready(FORMATS)
        visit.draw(A_ONE)
        visit.answers("1", ALL)
        shutil.copytree(base / "1", base / ".stage-2")
        (base / ".stage-2").rename(base / "2")
        visit.status("2")
        visit.page.wait_for_function(
            """() => document.querySelector('tr[data-row="server"]').textContent.includes("version 2")"""
        )
        visit.answers("1", ALL)


def test_a_file_that_cannot_be_loaded(chrome: Browser, server: Server) -> None:
    (server.models / "nn/1/web/int8.tflite").write_bytes(b"no model")
    (server.models / "nn/1/web/float16.tflite").unlink()
    with visiting(chrome, server, "?model=nn") as visit:
        good = [name for name in FORMATS if name not in ("int8", "float16")]
        visit.ready(good)
        for name in ("int8", "float16"):
            visit.page.wait_for_selector(f'tr[data-row="{name}"][data-state="failed"]')
            assert visit.page.inner_text(f'tr[data-row="{name}"] [data-cell="reason"]')
        visit.draw(A_ONE)
        visit.answers("1", [*good, "server"])


def test_a_browser_without_simd_leaves_it_to_the_server(chrome: Browser, server: Server) -> None:
    visit = Visit(chrome, server, "?model=nn")
    visit.page.add_init_script("WebAssembly.validate = () => false;")
    visit.open()
    visit.status("SIMD")
    visit.draw(A_ONE)
    visit.page.wait_for_function("() => document.querySelector('#best').textContent.trim() === '1'")
    assert visit.page.inner_text('tr[data-row="server"] [data-cell="answer"]').startswith("1")
    visit.close()


def test_a_model_that_is_not_served(chrome: Browser, server: Server) -> None:
    with visiting(chrome, server, "?model=none") as visit:
        visit.status("none")
        visit.ready(FORMATS)  # of another model


def test_a_version_of_an_older_release(chrome: Browser, server: Server) -> None:
    """Without files for browsers, the server answers, and the page says why nothing else does."""
    version = server.models / "nn" / "1"
    card = cards.read(version)
    shutil.rmtree(version / "web")
    fields = {name: getattr(card, name) for name in card.__dataclass_fields__}
    cards.ExportCard(**{**fields, "web": [], "files": cards.listing(version)}).write(version)
    with visiting(chrome, server, "?model=nn") as visit:
        visit.page.wait_for_selector('tr[data-row="server"]')
        visit.draw(A_ONE)
        visit.page.wait_for_function("() => document.querySelector('#best').textContent.trim() === '1'")
        assert "browser" in visit.page.inner_text("body")


def test_the_first_answer_needs_less_than_4_mb(chrome: Browser, server: Server) -> None:
    visit = Visit(chrome, server, "?model=cnn")
    session = visit.context.new_cdp_session(visit.page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    # The page loads the other formats next, but the first answer doesn't need them: they wait.
    visit.page.route(re.compile(r"/(?!int8\.)\w+\.tflite"), lambda route: None)
    visit.open()
    visit.ready(["int8"])
    assert 2_000_000 < sum(sizes) < 4_000_000
    visit.page.unroute_all()  # the waiting requests continue
    visit.ready(FORMATS)
    visit.close()


def test_another_kind_of_model_takes_images(chrome: Browser, tmp_path: Path) -> None:
    """An RGB model with labels of its own."""
    import keras
    from PIL import Image

    from tfship.export.command import main
    from tfship.train.common import cli

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    )
    # The strongest colour decides.
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32) * 12, np.zeros(3, np.float32)])
    model.save(tmp_path / "colours.keras")
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)
    images[np.arange(300), :, :, np.arange(300) % 3] //= 4
    truth = images.mean((1, 2)).argmax(1)
    np.savez(tmp_path / "eval.npz", x=images, y=truth)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    own = ["--eval", str(tmp_path / "eval.npz"), "--labels", str(tmp_path / "labels.txt"), "--range=0,1"]
    argv = [str(tmp_path / "colours.keras"), "--formats=float32", "--models", str(tmp_path / "models"), *own]
    assert cli.run(main, argv) == 0
    Image.new("RGB", (40, 30), (20, 30, 220)).save(tmp_path / "sky.png")
    server = Server(tmp_path / "models")
    server.start()
    try:
        with visiting(chrome, server, **PHONE) as visit:
            visit.ready(["float32"])
            visit.page.set_input_files("#file", tmp_path / "sky.png")
            visit.answers("blue", ["float32", "server"])
            assert visit.best == "blue"
            assert not visit.scrolls
            (tmp_path / "words.png").write_text("no image")
            visit.page.set_input_files("#file", tmp_path / "words.png")
            visit.status("Not an image; expected PNG")
    finally:
        server.stop()


def test_the_policy_is_sent_with_the_page(chrome: Browser, server: Server) -> None:
    with visiting(chrome, server, "?model=nn") as visit:
        visit.page.wait_for_selector('tr[data-state="ready"]')
        headers = visit.page.request.get(f"{visit.origin}/web/").headers
        assert headers["content-security-policy"] == HEADERS["content-security-policy"]
        # Nothing that a page injects is run.
        assert visit.page.evaluate(
            "() => { const script = document.createElement('script'); script.textContent = 'window.injected = 1';"
            " document.body.append(script); return window.injected === undefined; }"
        )
        visit.said.clear()  # the refusal
