"""Which targets are compared: those that there are, or those that were chosen by `--compare=…`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfship.client.targets.connection import GRPC_PORT, REST_PORT, Connection, Servable
from tfship.client.targets.registry import TARGETS, Choice, Opened, parse
from tfship.export.conversion.formats import FORMATS, REFERENCE, RELEASED
from tfship.export.preprocessing.input_contract import SERVING_BYTES, SERVING_UINT8
from tfship.export.publishing import cards, store
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train import cards as training
from tfship.train.common.errors import ArtifactError, TfshipError, UsageError
from tfship.train.common.files import sha256

__all__ = ["Candidate", "chosen", "coarse", "forms", "older"]

# Two runtimes that compute in float32; see client.compare.comparison.EXACT.
_EXACT = 1e-3
# Of a quantized format whose card doesn't tell how far it strays: a class that was even may win or lose this much.
_UNMEASURED = 0.3
# The card has the largest difference on the evaluation images; a person's pictures may be harder than these.
_HARDER = 2.0


@dataclass(frozen=True)
class Candidate:
    """A target that is to be compared.

    `rank` says how good a reference it would be, 0 the best; `tolerance` is the largest difference of a probability
    to a float32 model that its arithmetic explains, `quantized` whether that is coarse. `slow` is what loads
    TensorFlow. `hint` tells what else is known of a target that deviates, from elsewhere than its answers.
    """

    name: str
    choice: Choice
    rank: int
    tolerance: float = _EXACT
    quantized: bool = False
    slow: bool = False
    hint: Callable[[], str] | None = None


def chosen(text: str, choice: Choice, connection: Callable[[str, int], Connection]) -> list[Candidate]:
    """Return the candidates of `--compare=text`, or all that there may be where it is empty.

    `text` is a list, separated by commas, of rest, grpc, tflite, savedmodel and keras; rest and grpc may be followed by
    @host:port, the others by :path or, tflite, by :format, without which it means all formats. `choice` says of which
    model; `connection` returns the way to a server by an address, or "", and the port that is usual.
    Raises UsageError for anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()] or list(TARGETS)
    found = [candidate for part in parts for candidate in _candidates(part, choice, connection)]
    # What loads TensorFlow comes last: who waits has something to look forward to.
    return sorted({each.name: each for each in found}.values(), key=lambda each: each.slow)


def _candidates(
    part: str, choice: Choice, connection: Callable[[str, int], Connection]
) -> Iterator[Candidate]:
    name, at, address = part.partition("@")
    try:
        kind, path = parse(name)
    except UsageError as error:
        raise UsageError(str(error).replace("--target", "--compare")) from None
    if at and not kind.served:
        raise UsageError(f"--compare {part}: expected an address for rest and grpc only")
    mine = replace(choice, kind=kind, path=path, connection=None)
    if kind.served:
        way = connection(address, GRPC_PORT if kind.name == "grpc" else REST_PORT)
        served = replace(mine, connection=way)
        yield Candidate(part, served, 3, hint=lambda: _version_served(served))
    elif kind.name == "tflite" and not path:
        yield from _formats(mine)
    else:
        local = replace(mine, servable=replace(mine.servable, label=None, signature=DEFAULT_SIGNATURE))
        if kind.name == "keras":
            local = replace(local, servable=replace(local.servable, version=None))
        candidate = Candidate(part, local, 2, slow=kind.package == "tensorflow")
        if kind.name == "savedmodel":
            candidate = replace(candidate, rank=1)
        elif kind.name == "keras":
            candidate = replace(candidate, hint=lambda: _exported_from(local))
        yield coarse(candidate, Path(path).stem)


def _formats(choice: Choice) -> Iterator[Candidate]:
    """Yield every TFLite format that the version has; the released file where there is no version."""
    servable = replace(choice.servable, label=None, signature=DEFAULT_SIGNATURE)
    choice = replace(choice, servable=servable)
    try:
        version = choice.version()
    except ArtifactError:
        yield coarse(Candidate("tflite", choice, 4), RELEASED)
        return
    there = [row for row in FORMATS.values() if (version / row.file).is_file()]
    for row in there or [FORMATS[REFERENCE]]:
        one = replace(choice, path=row.name)
        yield coarse(Candidate(f"tflite:{row.name}", one, 0 if row.exact else 4), row.name)


def coarse(candidate: Candidate, name: str) -> Candidate:
    """Return the candidate with the tolerance of the format `name`, if it is one that isn't exact."""
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


def forms(candidate: Candidate, opened: Opened) -> Iterator[Candidate]:
    """Yield the other signatures that a server has for the same pictures: raw pixels, and encoded ones."""
    choice = candidate.choice
    if choice.connection is None or choice.servable.signature != DEFAULT_SIGNATURE:
        return
    signatures: Mapping[str, object] = getattr(opened.target, "signatures", dict)()
    for name in (SERVING_UINT8, SERVING_BYTES):
        if name in signatures:
            other = replace(choice, servable=replace(choice.servable, signature=name))
            yield replace(candidate, name=f"{candidate.name} {name}", choice=other)


def older(choice: Choice) -> Iterator[tuple[int, Candidate]]:
    """Yield the other versions on this disk, newest first, as their float32 TFLite files; retired ones, too."""
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
    """Return what a server says about its version, if that isn't the newest on this disk."""
    from tfship.client.targets.server_info import GrpcInspector, RestInspector

    assert choice.connection is not None  # noqa: S101 - of kinds that are served
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
    return f"the server says that it serves version {number}; the newest on this disk is {here[-1]}"


def _exported_from(choice: Choice) -> str:
    """Return that a .keras file isn't the one that the version was exported from, by the version's card."""
    name = f"{choice.servable.name}.keras"
    try:
        path = (
            Path(choice.path) if choice.path else training.locate(choice.models, choice.servable.name) / name
        )
        version = choice.version(choice.base)
        same = sha256(path / name if path.is_dir() else path) == cards.read(version).keras_sha256
    except (ArtifactError, OSError):
        return ""
    return "" if same else f"by its sha256, it isn't the file that {version} was exported from; export it"
