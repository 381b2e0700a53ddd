"""Conventions of all commands: one line for each error, distinct exit codes, the format of `--help`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from tfship.train.common import interruption
from tfship.train.common.errors import TfshipError, UsageError

__all__ = ["count", "missing", "one_line", "parser", "run", "say", "split"]

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 unusable data or image, 4 missing or damaged model, "
    "5 server unreachable or refusing, 6 a check failed, 130 interrupted"
)


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return an argument parser whose help shows defaults and exit codes."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


def count(value: str) -> int:
    """Parse an argument's `value` as a whole number, 1 or more, for argparse's `type`."""
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r}: expected a whole number, 1 or more")
    return int(value)


def missing(what: str, package: str, extra: str = "") -> UsageError:
    """Return the error that `what` needs `package`, which one of tfship's extras installs."""
    name = f"'tfship[{extra}]'" if extra else "tfship"
    return UsageError(f"{what} needs {package}, which isn't installed: pip install {name}")


def split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arguments before and after the first `--`, which argparse versions treat differently."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows only informative defaults: not None, empty text or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False):
            return action.help
        return super()._get_help_string(action)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main` with `argv` and return its exit code; a known error becomes one line on stderr.

    Doesn't return after a SIGINT caught by `interruption.catch`: it ends the process with exit code 130.
    """
    try:
        interruption.check()
        code = main(argv)
        # Raises BrokenPipeError here, where it can be caught, if the pipe is closed.
        sys.stdout.flush()
    except BaseException as error:
        # First, since after a SIGINT native code, child processes and servers fail with any kind of error.
        interruption.finish()
        match error:
            case TfshipError():
                say(f"error: {one_line(error)}")
                code = error.exit_code
            case KeyboardInterrupt():
                say("interrupted")
                code = interruption.EXIT_CODE
            case BrokenPipeError():
                # A reader such as `head` closed the pipe, which isn't a failure of the command.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = 0
            case OSError():
                where = f"{error.filename}: " if error.filename else ""
                say(f"error: {where}{error.strerror or error}")
                code = 1
            case _:
                raise
    interruption.finish(code)
    return code


def one_line(text: object) -> str:
    """Return `text` as one line without control characters: it may quote a file or a server."""
    line = " ".join(str(text).split())
    return line if line.isprintable() else "".join(each if each.isprintable() else "?" for each in line)


def say(text: str) -> None:
    """Print `text` on stderr for the user; stdout is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
