"""Ctrl-C: exit code 130, one line, nothing half-written, whatever the command is doing.

TFSHIP_INTERRUPTS=50 also interrupts each long command that often, at random moments of a whole run, its start included;
with `-o faulthandler_timeout=0`, since that takes longer than any other test may.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from conftest import ROOT
from processes import Forked, command, forked
from tfship.benchmarks.harness.process_info import children
from tfship.train.common import interruption
from tfship.train.data.datasets import Digits

MANY = int(os.environ.get("TFSHIP_INTERRUPTS", "0"))
NOTICE = "Ctrl-C: ending at the next step; press it again to end at once"
# What comes before the work of the scripts below; `step` says where they are.
BEGIN = """
import sys
from tfship.train.common import interruption
interruption.catch()
import os, subprocess, time
from pathlib import Path
from tfship.train.common import cli; from tfship.train.common import files
def step(): print("step", flush=True)
def signalled():
    while not interruption._requested: time.sleep(0.01)
"""


@pytest.fixture(autouse=True, scope="module")
def _sigint_is_not_ignored() -> Iterator[None]:
    """A shell ignores SIGINT in its background jobs, and their processes inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def started(*argv: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(work: str, signals: int = 1) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command that does `work` and is sent signals at its steps."""
    with started("-c", f"{BEGIN}\ndef main(argv):\n{work}\n    return 0\nsys.exit(cli.run(main))") as process:
        assert process.stdout is not None
        for _ in range(signals):
            assert process.stdout.readline() == "step\n"
            process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    return process.returncode, out, error.replace(f"{NOTICE}\n", "")  # on a busy machine


@pytest.mark.parametrize(
    "work",
    [
        # At the next step.
        "    step()\n    while True: interruption.check()",
        "    step()\n    with interruption.waiting(): time.sleep(1000)",
        "    with interruption.waiting():\n        step()\n        subprocess.run(['sleep', '1000'])",
        "    with interruption.loading():\n        step()\n        time.sleep(1000)",
        # What native code makes of it.
        "    step()\n    signalled()\n    raise SystemError('error return without exception set')",
        "    step()\n    signalled()\n    raise files.ArtifactError('a child process has died')",
        "    step()\n    signalled()\n    sys.exit(3)",
        # The last step.
        "    step()\n    signalled()",
        # Where an error has no caller.
        "    class Last:\n        def __del__(self):\n            with interruption.waiting():\n"
        "                step()\n                time.sleep(1000)\n    Last()\n    interruption.check()",
    ],
)
def test_the_first_signal_ends_at_the_next_step(work: str) -> None:
    assert interrupted(work) == (130, "", "interrupted\n")


def test_before_main() -> None:
    script = f"{BEGIN}\nstep()\nsignalled()\nsys.exit(cli.run(lambda argv: print('never')))"
    with started("-c", script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "interrupted\n")
    assert process.returncode == 130


def test_after_main() -> None:
    """While Python is about to exit."""
    work = "    import atexit\n    atexit.register(lambda: (step(), time.sleep(1000)))"
    assert interrupted(work) == (130, "", "interrupted\n")


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    work = f"""
    child = subprocess.Popen(["sleep", "1000"])
    print("step", flush=True)
    with files.stage(Path({str(tmp_path)!r}), "file") as stage:
        stage.write_bytes(b"half")
        time.sleep(2.5)  # goes on after the first signal, and the notice comes
        print(child.pid, flush=True)
        print("step", flush=True)
        while True:
            time.sleep(1000)"""
    with started("-c", f"{BEGIN}\ndef main(argv):\n{work}\nsys.exit(cli.run(main))") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == f"{NOTICE}\n"
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "interrupted\n")
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert ended(lambda: not Path(f"/proc/{child}").exists())


def test_the_second_signal_ends_native_code() -> None:
    """The main thread is in a call that neither comes back to Python nor is ended by a signal."""
    work = """
    import ctypes, threading
    mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    def steps():
        for _ in range(2):
            time.sleep(0.3)
            step()
    threading.Thread(target=steps, daemon=True).start()
    libc.pthread_mutex_lock(mutex)"""
    assert interrupted(work, signals=2) == (130, "", "interrupted\n")


def test_an_ignored_signal_stays_ignored() -> None:
    script = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"{BEGIN}\nassert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    with started("-c", script) as process:
        _, error = process.communicate()
    assert (process.returncode, error) == (0, "")


def test_nothing_changes_in_a_thread_or_a_library() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interruption.catch)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    interruption.check()
    with interruption.waiting(), interruption.loading():
        interruption.check()
    interruption.finish()


def ended(check: Callable[[], bool]) -> bool:
    """Wait until `check` holds; pytest's own time limit is for what never ends."""
    while not check():
        time.sleep(0.02)
    return True


def stages(folder: Path) -> list[Path]:
    return list(folder.rglob(".stage-*"))


def trained(models: Path, folder: Path) -> None:
    """Put the trained nn into `folder`, not exported."""
    folder.mkdir(exist_ok=True)
    for file in models.glob("nn.*"):
        (folder / file.name).symlink_to(file)


def assert_interrupted(process: Forked, code: int) -> None:
    assert code == 130, process.error
    assert process.error.splitlines()[-1] == "interrupted"
    assert process.error.count("interrupted\n") == 1
    assert "Traceback" not in process.error


def interrupt(process: Forked, seconds: float) -> None:
    """Send the signal after a while."""
    time.sleep(seconds)
    assert process.process.pid is not None
    os.kill(process.process.pid, signal.SIGINT)
    assert_interrupted(process, process.ends())


# While TensorFlow traces the first step, and later.
@pytest.mark.parametrize("seconds", [0.4, 2.5])
def test_training(tmp_path: Path, seconds: float) -> None:
    with forked(command, "train", "nn", "--epochs", "500", "--models", str(tmp_path)) as process:
        process.reaches(lambda: "training with seed" in process.error)
        interrupt(process, seconds)
    assert {path.name for path in tmp_path.iterdir()} <= {"logs", "nn.checkpoint.npz"}


def test_exporting(models: Path, tmp_path: Path, sample: Digits) -> None:
    """As a user's model, whose SavedModel needn't find digits and is soon written."""
    evaluated = tmp_path / "eval.npz"
    np.savez(evaluated, x=sample.x_test[::10], y=sample.y_test[::10])
    argv = (str(models / "nn.keras"), "--name", "own", "--eval", str(evaluated), "--models", str(tmp_path))
    with forked(command, "export", *argv) as process:
        process.reaches(lambda: "own savedmodel: written" in process.error)
        interrupt(process, 0.1)
    assert list((tmp_path / "own").iterdir()) == []


def test_benchmarking(models: Path, tmp_path: Path) -> None:
    """The server ends with it, what was measured is kept, and the same command goes on."""
    argv = ("benchmark", "--quick", "--model", "nn", "--models", str(models), "--out", str(tmp_path))
    with forked(command, *argv) as process:
        pid = process.process.pid
        assert pid is not None
        process.reaches(lambda: any((tmp_path / "partial").glob("*/*/*.json")))
        (server,) = (each for each in children(pid) if "serving" in Path(f"/proc/{each}/cmdline").read_text())
        interrupt(process, 0.1)
        assert "measured so far: " in process.error
    assert not Path(f"/proc/{server}").exists()
    assert stages(tmp_path) == []
    with forked(command, *argv) as process:
        process.reaches(lambda: "resuming an interrupted run" in process.error)
        interrupt(process, 0.1)  # killed, it would leave its server behind


def test_the_zoo(tmp_path: Path) -> None:
    """The command that it runs at a terminal ends with it."""

    def fitting() -> list[int]:
        assert pid is not None
        return [each for each in children(pid) if "zoo.networks" in Path(f"/proc/{each}/cmdline").read_text()]

    with forked(command, "benchmark", "zoo", "--only", "vit", "--out", str(tmp_path)) as process:
        pid = process.process.pid
        process.reaches(lambda: bool(fitting()))
        (child,) = fitting()
        interrupt(process, 0.1)
    assert not Path(f"/proc/{child}").exists()
    assert stages(tmp_path) == []


def test_the_client_ends_at_once() -> None:
    """While it waits for a server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with started("client/predict.py", "client/samples/seven.png", "--server", address) as process:
            connection, _ = server.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert process.communicate() == ("", "interrupted\n")
    assert process.returncode == 130


def train_argv(models: Path, folder: Path) -> tuple[str, ...]:
    return ("train", "nn", "--epochs", "3", "--models", str(folder))


def export_argv(models: Path, folder: Path) -> tuple[str, ...]:
    if not folder.exists():
        trained(models, folder)
    return ("export", "nn", "--models", str(folder))


def benchmarks_argv(models: Path, folder: Path) -> tuple[str, ...]:
    out = folder.parent / "out"  # one for all runs
    return ("benchmark", "--quick", "--model", "nn", "--models", str(models), "--out", str(out))


@pytest.mark.skipif(not MANY, reason="takes minutes; TFSHIP_INTERRUPTS=50 asks for it")
@pytest.mark.parametrize("argv", [train_argv, export_argv, benchmarks_argv])
def test_random_moments(
    models: Path, tmp_path: Path, argv: Callable[[Path, Path], Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole processes, from the moment at which they handle the signal."""
    monkeypatch.setenv("TFSHIP_TEST", str(tmp_path))
    draw, ends, noticed = random.Random(argv.__name__), list[float](), 0
    with started("-m", "tfship.train.common.entry_point", *argv(models, tmp_path / "whole")) as process:
        begin = time.monotonic()
        _, error = process.communicate()
        assert process.returncode == 0, error
        whole = time.monotonic() - begin
    # What is longer is gone through by runs that go on where the last one was.
    longest = min(whole, 40.0)
    while len(ends) < MANY:
        folder = tmp_path / str(len(ends))
        with started("-m", "tfship.train.common.entry_point", *argv(models, folder)) as process:
            assert ended(lambda: handles(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, longest))
                continue  # it was faster than the first
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            _, error = process.communicate()
        ends.append(time.monotonic() - begin)
        noticed += NOTICE in error
        assert process.returncode == 130, error
        assert error.splitlines()[-1] == "interrupted"
        assert error.count("interrupted\n") == 1
        assert "Traceback" not in error
        assert stages(tmp_path) == []
        assert ended(lambda: not left(str(tmp_path)))
    with started(
        "-m", "tfship.train.common.entry_point", *argv(models, folder)
    ) as process:  # the next run works, and goes on
        _, error = process.communicate()
        assert process.returncode == 0, error
    print(
        f"{argv.__name__}: {len(ends)} interrupts within {longest:.0f} s of {whole:.0f}, all exit 130; ended after "
        f"{median(ends):.2f} s (median), {max(ends):.1f} s at most; {noticed} notices"
    )


def handles(pid: int) -> bool:
    """Return whether a process has the thread that waits for a second signal."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def left(mark: str) -> list[int]:
    """Return the processes that the test's commands have left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if (
                f"TFSHIP_TEST={mark}\0".encode() in path.read_bytes() + b"\0"
                and int(path.parent.name) != os.getpid()
            ):
                found.append(int(path.parent.name))
    return found
