"""Whether a server's signatures are the one that is asked for, and those of the contract and the model on this disk."""

from collections.abc import Iterator, Mapping

from client.answers import AVAILABLE, Served, Signature, Tensor
from client.connection import Servable
from client.directory import Local
from client.findings import FAULT, Finding, fault, listed, ok, warning
from export import contract
from export.contract import Contract
from train.errors import ArtifactError

__all__ = ["judge"]


def judge(about: str, served: Served, servable: Servable, local: Local) -> Iterator[Finding]:
    """Yield what is wrong with the signatures that are served, at `about`, or else what they are."""
    name = f"{servable.name} version {served.version}"
    found = served.signatures.get(servable.signature)
    if found is None:
        there = [f"{key}: {each}" for key, each in sorted(served.signatures.items())]
        yield fault(
            about,
            f"{name} has no signature {servable.signature!r}; there are {'; '.join(there) or 'none'}",
            "name one of these by --signature, or export the version again",
        )
        return
    agreed = _contract(local, served.version)
    wrong: list[Finding] = []
    if agreed is not None:
        wrong = list(_against_contract(about, name, served, servable, agreed))
    if not wrong and served.version == local.number and local.signatures:
        wrong = list(_against_disk(about, name, served, local.signatures))
    yield from wrong
    if not any(each.level == FAULT for each in wrong):
        also = [key for key in sorted(served.signatures) if key != servable.signature]
        compared = ", as the contract says" if agreed is not None else ""
        yield ok(
            about,
            f"{name} is {AVAILABLE}; {servable.signature}: {found}{compared}; other signatures: {listed(also)}",
        )


def _contract(local: Local, number: int) -> Contract | None:
    """Return the contract of the version that is served, or of the one in question where that isn't here."""
    if number == local.number or number not in local.versions:
        return local.contract
    try:
        return contract.read(local.versions[number])
    except (ArtifactError, OSError):
        return None


def _against_contract(
    about: str, name: str, served: Served, servable: Servable, agreed: Contract
) -> Iterator[Finding]:
    missing = []
    for key, described in agreed.describe()["signatures"].items():
        expected = Signature(_side(described["inputs"]), _side(described["outputs"]))
        if key not in served.signatures:
            missing.append(key)
        elif wrong := _differences(expected, served.signatures[key]):
            labels = f"; the contract names {len(agreed.labels)} labels" if "probabilities" in wrong else ""
            kind = fault if key == servable.signature else warning
            yield kind(
                about,
                f"{name} isn't what the contract on this disk says, signature {key}: {wrong}{labels}",
                "serve the version that the contract belongs to, or copy its contract.json here",
            )
    if missing:
        yield warning(
            about,
            f"{name} lacks signatures of the contract: {listed(missing)}",
            "a server with --prefer_tflite_model has only serving_default; otherwise export the version again",
        )


def _against_disk(about: str, name: str, served: Served, here: Mapping[str, Signature]) -> Iterator[Finding]:
    for key in sorted(served.signatures.keys() & here.keys()):
        if wrong := _differences(here[key], served.signatures[key]):
            yield fault(
                about,
                f"{name} isn't the version {served.version} on this disk, signature {key}: {wrong}",
                "see that the server's base path is this folder, and copy the version again",
            )


def _side(described: Mapping[str, Mapping[str, object]]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            str(each["dtype"]), tuple(-1 if size is None else size for size in _sizes(each["shape"]))
        )
        for name, each in described.items()
    }


def _sizes(shape: object) -> list[int | None]:
    assert isinstance(shape, list)  # noqa: S101 - of Contract.describe
    return shape


def _differences(expected: Signature, found: Signature) -> str:
    """Return how a signature differs from what is expected, empty if one can stand for the other."""
    wrong = []
    for side, wanted, there in (
        ("input", expected.inputs, found.inputs),
        ("output", expected.outputs, found.outputs),
    ):
        if missing := wanted.keys() - there.keys():
            has = ", ".join(f"{name} {each}" for name, each in there.items())
            wrong.append(f"no {side} {listed(sorted(missing))}, but {has}")
        if side == "input" and not missing and (more := there.keys() - wanted.keys()):
            wrong.append(f"another input {listed(sorted(more))}")
        wrong += [
            f"{side} {name} is {there[name]}, expected {each}"
            for name, each in wanted.items()
            if name in there and not _fits(each, there[name])
        ]
    return "; ".join(wrong)


def _fits(expected: Tensor, found: Tensor) -> bool:
    if expected.dtype != found.dtype:
        return False
    if expected.shape is None or found.shape is None:
        return True
    return len(expected.shape) == len(found.shape) and all(
        a == b or a < 0 or b < 0 for a, b in zip(expected.shape, found.shape, strict=True)
    )
