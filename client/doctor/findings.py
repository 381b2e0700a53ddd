"""Findings of the doctor: one line each, with a remedy for every warning and fault."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FAULT", "OK", "WARNING", "Finding", "clean", "fault", "line", "listed", "ok", "warning"]

OK, WARNING, FAULT = "ok", "warning", "fault"

# In characters; the rest of a server's message rarely adds to it.
_LONGEST = 300
_MOST_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """`about` is the address, file or folder, `found` its state, `remedy` what to do, empty for `OK`."""

    level: str
    about: str
    found: str
    remedy: str = ""

    def describe(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return dataclasses.asdict(self)


def ok(about: str, found: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(OK, clean(about), clean(found))


def warning(about: str, found: str, remedy: str) -> Finding:
    """Return a finding that may be intended."""
    return Finding(WARNING, clean(about), clean(found), clean(remedy))


def fault(about: str, found: str, remedy: str) -> Finding:
    """Return a finding that prevents predictions, or makes them wrong."""
    return Finding(FAULT, clean(about), clean(found), clean(remedy))


def line(finding: Finding) -> str:
    """Return the finding as a line for users, its level first."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.level:<8} {finding.about}: {finding.found}{remedy}"


def clean(text: str, longest: int = 3 * _LONGEST) -> str:
    """Return untrusted text as one printable line of at most `longest` characters."""
    short = text[: 4 * longest]
    words = " ".join("".join(each if each.isprintable() else " " for each in short).split())
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def listed(values: Sequence[object], nothing: str = "none") -> str:
    """Return values as a comma-separated list of at most eight, with the number of the others."""
    more = f" and {len(values) - _MOST_LISTED} more" if len(values) > _MOST_LISTED else ""
    return ", ".join(clean(str(each), _LONGEST) for each in values[:_MOST_LISTED]) + more or nothing
