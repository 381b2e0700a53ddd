"""Selection of the targets to compare: all available ones, or those chosen by `--compare=…`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable
from tfship.client.targets.registry import TARGETS, Choice, Opened, parse
from tfship.export.conversion.formats import FORMATS, REFERENCE, RELEASED, Format
from tfship.export.preprocessing.input_contract import SERVING_BYTES, SERVING_UINT8
from tfship.export.publishing import cards, store
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train import cards as training
from tfship.train.common.errors import ArtifactError, TfshipError, UsageError
from tfship.train.common.files import sha256

__all__ = ["Candidate", "chosen", "other_signatures", "other_versions", "with_tolerance"]

# For runtimes that compute in float32; see client.compare.comparison.EXACT.
_EXACT = 1e-3
# For a quantized format without a measured difference in its card: a tied class may gain or lose this much.
_UNMEASURED = 0.3
# Factor on the card's largest difference, measured on evaluation images: users' images may be harder.
_HARDER = 2.0
# The kinds of targets that have a file of each format in a version, and where it is.
_FILES: dict[str, Callable[[Format], str]] = {
    "tflite": lambda row: row.file,
    "web": lambda row: row.web_file,
}


@dataclass(frozen=True)
class Candidate:
    """A target to compare.

    `rank` is its order of preference as reference, 0 first. `tolerance` is the largest difference of a probability from
    a float32 model's that its arithmetic explains; it is large if `quantized`. `hint` returns further information about
    a diverging target, empty if there is none.
    """

    name: str
    choice: Choice
    rank: int
    tolerance: float = _EXACT
    quantized: bool = False
    hint: Callable[[], str] | None = None


def chosen(text: str, choice: Choice, connection: Callable[[str, int], Connection]) -> list[Candidate]:
    """Return the candidates of `--compare=text`, or all candidates if `text` is empty.

    `text` is a comma-separated list of rest, grpc, tflite, web, savedmodel and keras. rest and grpc may be followed by
    @host:port, the others by :path, and tflite and web by :format; alone, these two mean all formats. `choice` chooses
    the model. `connection` returns the connection for an address, or "", and the usual port. Raises UsageError for
    anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()] or list(TARGETS)
    found = [candidate for part in parts for candidate in _candidates(part, choice, connection)]
    # Slow targets come last, so that results of the others appear early.
    return sorted({each.name: each for each in found}.values(), key=lambda each: bool(each.choice.kind.slow))


def _candidates(
    part: str, choice: Choice, connection: Callable[[str, int], Connection]
) -> Iterator[Candidate]:
    name, at, address = part.partition("@")
    try:
        kind, path = parse(name)
    except UsageError as error:
        raise UsageError(str(error).replace("--target", "--compare")) from None
    if at and not kind.served:
        raise UsageError(f"--compare {part}: only rest and grpc take an address; omit @{address}")
    mine = replace(choice, kind=kind, path=path, connection=None)
    if kind.served:
        usual = GRPC_PORT if kind.name == "grpc" else REST_PORT
        served = replace(mine, connection=connection(address, usual))
        yield Candidate(part, served, 3, hint=lambda: _version_served(served))
    elif kind.name in _FILES and not path:
        yield from _formats(mine)
    else:
        local = replace(mine, servable=replace(mine.servable, label=None, signature=DEFAULT_SIGNATURE))
        if kind.name == "keras":
            local = replace(local, servable=replace(local.servable, version=None))
        candidate = Candidate(part, local, 2)
        if kind.name == "savedmodel":
            candidate = replace(candidate, rank=1)
        elif kind.name == "keras":
            candidate = replace(candidate, hint=lambda: _exported_from(local))
        yield with_tolerance(candidate, Path(path).stem)


def _formats(choice: Choice) -> Iterator[Candidate]:
    """Yield all TFLite formats of the version, or a released file if there is no version."""
    servable = replace(choice.servable, label=None, signature=DEFAULT_SIGNATURE)
    choice = replace(choice, servable=servable)
    try:
        version = choice.version()
    except ArtifactError:
        yield with_tolerance(Candidate(choice.kind.name, choice, 4), RELEASED)
        return
    file_of = _FILES[choice.kind.name]
    there = [row for row in FORMATS.values() if (version / file_of(row)).is_file()]
    for row in there or [FORMATS[REFERENCE]]:
        one = replace(choice, path=row.name)
        preferred = row.exact and choice.kind.name == "tflite"
        yield with_tolerance(
            Candidate(f"{choice.kind.name}:{row.name}", one, 0 if preferred else 4), row.name
        )


def with_tolerance(candidate: Candidate, name: str) -> Candidate:
    """Return the candidate with the tolerance of the format `name`; unchanged for an exact or unknown format."""
    row = FORMATS.get(name)
    if row is None or row.exact:
        return candidate
    try:
        file = Path(candidate.choice.path)
        card = cards.read(file.parent.parent if file.is_file() else candidate.choice.version())
        measured = [each["largest_difference"] for each in card.artefacts if each["format"] == name]
        tolerance = _EXACT + _HARDER * float(measured[0])
    except (ArtifactError, OSError, LookupError, TypeError, ValueError):
        tolerance = _UNMEASURED
    return replace(candidate, tolerance=tolerance, quantized=True)


def other_signatures(candidate: Candidate, opened: Opened) -> Iterator[Candidate]:
    """Yield a server's other signatures for the same images: for pixels, and for encoded images."""
    choice = candidate.choice
    if choice.connection is None or choice.servable.signature != DEFAULT_SIGNATURE:
        return
    signatures = opened.target.signatures()
    for name in (SERVING_UINT8, SERVING_BYTES):
        if name in signatures:
            other = replace(choice, servable=replace(choice.servable, signature=name))
            yield replace(candidate, name=f"{candidate.name} {name}", choice=other)


def other_versions(choice: Choice) -> Iterator[tuple[int, Candidate]]:
    """Yield the float32 TFLite files of the other versions on this disk, also retired ones, newest first."""
    base: Path = choice.base
    try:
        current = choice.version(Path(choice.path) if choice.path and choice.path not in FORMATS else None)
        folders = store.retired(base) | store.versions(base)
    except (ArtifactError, OSError):
        return
    for number, folder in sorted(folders.items(), reverse=True):
        file = folder / FORMATS[REFERENCE].file
        if folder != current and file.is_file():
            servable = Servable(choice.servable.name)
            other = replace(
                choice, kind=TARGETS["tflite"], path=str(file), servable=servable, connection=None
            )
            yield number, Candidate(f"version {number}", other, 0)


def _version_served(choice: Choice) -> str:
    """Return a hint if the server reports another version than the newest on this disk, else ""."""
    from tfship.client.targets.server_info import GrpcInspector, RestInspector

    assert choice.connection is not None  # noqa: S101 - set for servers
    here: Sequence[int] = sorted(store.versions(choice.base))
    inspector = (GrpcInspector if choice.kind.name == "grpc" else RestInspector)(choice.connection)
    try:
        number = inspector.served(choice.servable).version
    except (TfshipError, ValueError):
        return ""
    finally:
        inspector.close()
    if not here or number == here[-1]:
        return ""
    return f"the server reports version {number}; the newest on this disk is {here[-1]}"


def _exported_from(choice: Choice) -> str:
    """Return a hint if the version wasn't exported from this .keras file, by the version's card, else ""."""
    name = f"{choice.servable.name}.keras"
    try:
        path = (
            Path(choice.path) if choice.path else training.locate(choice.models, choice.servable.name) / name
        )
        version = choice.version(choice.base)
        same = sha256(path / name if path.is_dir() else path) == cards.read(version).keras_sha256
    except (ArtifactError, OSError):
        return ""
    return "" if same else f"by its sha256, {version} was exported from another file; export this one"
