"""Small versions with a card, as `tfship export` publishes them."""

from dataclasses import replace
from pathlib import Path

from doctor_fixtures import card_of
from serving_fixtures import publish


def exported(base: Path, number: int, **files: bytes) -> Path:
    """Write a version `times number` with a card and these further files, and return its directory."""
    publish(base, number)
    version = base / str(number)
    (version / "assets").mkdir()
    (version / "assets" / "labels.txt").write_text("a\nb\n")
    for name, content in files.items():
        (version / name).write_bytes(content)
    card = replace(card_of(version), created="2026-11-01T12:00:00+00:00", blessing={"blessed": True})
    card.write(version)
    return version


def same(one: Path, other: Path) -> bool:
    """Whether two version directories hold the same files."""
    return _contents(one) == _contents(other)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
