"""Functions in child processes: results, errors, aborts, timeouts, and that nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from processes import forked
from tfship.export.runtimes import isolation
from tfship.export.runtimes.isolation import Isolation
from tfship.train.common.errors import ArtifactError, DataError


def double(number: int) -> int:
    for step in range(number):
        isolation.report(step)
    return 2 * number


def speak() -> str:
    os.write(1, b"compiling\n")
    os.write(2, b"warning: a loop\n")
    return os.environ["CUDA_VISIBLE_DEVICES"]


def refuse() -> None:
    raise DataError("no images")


def fail() -> None:
    raise RuntimeError("unknown operator\nat line 3")


def exhaust() -> None:
    raise MemoryError


def end(number: int) -> None:
    print("E0000 00:00:1.5 17 softmax.cc:12] more than 512 classes", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)


def sleep(pid: Path, seconds: float = 600) -> None:
    pid.write_text(f"{os.getpid()} {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}")
    time.sleep(seconds)


def isolate(log: Path, pid: Path) -> None:
    # A process that was forked starts a fork server of its own; this one needs no TensorFlow.
    multiprocessing.set_forkserver_preload([])
    Isolation(log).run("the sleeper", sleep, pid)


@pytest.fixture
def isolated(tmp_path: Path) -> Isolation:
    return Isolation(tmp_path / "log")


def test_results_and_reports_come_back(isolated: Isolation) -> None:
    seen: list[int] = []
    assert isolated.run("the doubler", double, 3, watch=seen.append) == 6
    assert seen == [0, 1, 2]
    assert not isolated.log.exists()


def test_output_goes_to_the_log(isolated: Isolation, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert isolated.run("the compiler", speak) == "-1"
    assert isolated.log.read_text() == "--- the compiler\ncompiling\nwarning: a loop\n" * 2
    assert capfd.readouterr() == ("", "")


def test_errors_are_raised_here(isolated: Isolation) -> None:
    with pytest.raises(DataError, match=r"^no images$"):
        isolated.run("the reader", refuse)
    with pytest.raises(ArtifactError, match=r"^the reader failed: RuntimeError unknown operator$"):
        isolated.run("the reader", fail)
    assert "at line 3" in isolated.log.read_text()
    with pytest.raises(ArtifactError, match=r"^the reader ran out of memory$"):
        isolated.run("the reader", exhaust)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGABRT, "the kernel aborted: more than 512 classes"),
        (signal.SIGSEGV, r"the kernel crashed \(SIGSEGV\): more than 512 classes"),
        (signal.SIGKILL, "the kernel was killed, as Linux does when memory runs out"),
    ],
)
def test_a_child_that_is_ended_by_a_signal_is_a_reason(
    isolated: Isolation, number: int, message: str
) -> None:
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        isolated.run("the kernel", end, number)
    assert "softmax.cc:12" in isolated.log.read_text()


def test_a_timeout_is_a_reason(isolated: Isolation, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^the sleeper took more than 0.3 s$"):
        isolated.run("the sleeper", sleep, tmp_path / "pid", seconds=0.3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_child_ends_with_its_parent(tmp_path: Path, number: int) -> None:
    pid = tmp_path / "pid"
    with forked(isolate, tmp_path / "log", pid) as parent:
        parent.reaches(lambda: pid.exists() and pid.read_text() != "")
        child, _, ignored = pid.read_text().partition(" ")
        # A terminal sends SIGINT to the child, too.
        assert ignored == "True"
        os.kill(int(child), signal.SIGINT)
        os.kill(parent.process.pid or 0, number)
        assert parent.ends() != 0
    for _ in range(1000):
        if not alive(int(child)):
            break
        time.sleep(0.02)
    assert not alive(int(child))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_children_know_tensorflow_without_keras(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tfship.export.runtimes.isolation import Isolation; "
        f"run = Isolation(Path({str(tmp_path / 'log')!r})).run; "
        "print(*(run('x', eval, f'{name!r} in __import__(\"sys\").modules') for name in ('tensorflow', 'keras')), "
        "'TF_USE_LEGACY_KERAS' in os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "False", "False"], done.stderr
