"""What the doctor has found: one line each, and for what isn't well a remedy."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FAULT", "OK", "WARNING", "Finding", "clean", "fault", "line", "listed", "ok", "warning"]

OK, WARNING, FAULT = "ok", "warning", "fault"

# More of a server's own words than this tells nothing more.
_LONGEST = 300
_MOST_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """`about` is what was looked at (an address, a folder), `found` what it is like, `remedy` empty if it is well."""

    level: str
    about: str
    found: str
    remedy: str = ""

    def describe(self) -> dict[str, str]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def ok(about: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(OK, clean(about), clean(found))


def warning(about: str, found: str, remedy: str) -> Finding:
    """Return a finding that may be meant so."""
    return Finding(WARNING, clean(about), clean(found), clean(remedy))


def fault(about: str, found: str, remedy: str) -> Finding:
    """Return a finding of what keeps predictions from being made, or from being right."""
    return Finding(FAULT, clean(about), clean(found), clean(remedy))


def line(finding: Finding) -> str:
    """Return the line for a person, its level first."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.level:<8} {finding.about}: {finding.found}{remedy}"


def clean(text: str, longest: int = 3 * _LONGEST) -> str:
    """Return text from anywhere as what a terminal shows on a line: no control characters, no more than `longest`."""
    short = text[: 4 * longest]
    words = " ".join("".join(each if each.isprintable() else " " for each in short).split())
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def listed(values: Sequence[object], nothing: str = "none") -> str:
    """Return values as a list for a line, the first of many."""
    more = f" and {len(values) - _MOST_LISTED} more" if len(values) > _MOST_LISTED else ""
    return ", ".join(clean(str(each), _LONGEST) for each in values[:_MOST_LISTED]) + more or nothing
