"""Verification of a version's files by the hashes in its export card, for `--verify_versions`."""

from pathlib import Path

from tfship.export.preprocessing.input_contract import BATCHING
from tfship.export.publishing import cards
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import sha256

__all__ = ["verify"]

_REMEDY = "copy the version again, or publish it again with `tfship export`"


def verify(version: Path) -> str:
    """Check all files of the directory `version` against the hashes in its card, and return a note for the log.

    Without a card, nothing is checked. Raises ArtifactError, which names the file, if the card is damaged, if a listed
    file is missing or differs, or if there is a file that isn't listed. Hidden files and the batching parameters, which
    operators may change, don't count.
    """
    if not (version / cards.CARD).exists():
        return f"not verified: it has no {cards.CARD}"
    expected = cards.read(version).files
    for name, digest in expected.items():
        path = version / name
        try:
            found = sha256(path)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: is missing, but listed in {cards.CARD}; {_REMEDY}") from None
        except OSError as error:
            raise ArtifactError(f"{path}: can't be read ({error.strerror}); {_REMEDY}") from None
        if found != digest:
            raise ArtifactError(
                f"{path}: is damaged or not completely copied; its sha256 is {found[:12]}…, {cards.CARD} has "
                f"{digest[:12]}…; {_REMEDY}"
            )
    for path in sorted(version.rglob("*")):
        name = path.relative_to(version).as_posix()
        known = name in expected or name in (cards.CARD, BATCHING) or path.name.startswith(".")
        if path.is_file() and not known:
            raise ArtifactError(
                f"{path}: is not listed in {cards.CARD}; remove it, or publish the version again"
            )
    return f"verified {len(expected)} files by {cards.CARD}"
