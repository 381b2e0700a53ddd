"""A directory of models as a model server would find it: what it would load, and what keeps it from that."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfship.client.doctor.findings import FAULT, WARNING, Finding, fault, listed, ok, warning
from tfship.client.doctor.version_files import HALF, examine, holds_model
from tfship.client.targets.model_info import ServedSignature
from tfship.export.preprocessing import input_contract as contract
from tfship.export.preprocessing.input_contract import CONTRACT, Contract
from tfship.export.publishing import cards, store
from tfship.train.common.errors import ArtifactError

__all__ = ["Local", "look", "models_in"]

_MOST_VERSIONS = 10


@dataclass
class Local:
    """What lies on this machine of a model: its versions, and of the one in question contract and signatures.

    `signatures` are those of the SavedModel, None where it can't be read.
    """

    versions: Mapping[int, Path] = field(default_factory=dict)
    retired: frozenset[int] = frozenset()
    number: int | None = None
    contract: Contract | None = None
    signatures: Mapping[str, ServedSignature] | None = None
    findings: list[Finding] = field(default_factory=list)


def models_in(models: Path) -> list[str]:
    """Return the names of the folders in `models` that hold versions."""
    try:
        return sorted(each.name for each in models.iterdir() if each.is_dir() and store.versions(each))
    except OSError:
        return []


def look(models: Path, name: str, version: int | None, *, asked: bool) -> Local:
    """Look at the model `name` in `models`, the folder of models or its own, and at its `version` or the latest.

    Never raises: what can't be read is a finding. That `models` isn't there is a fault only if it was `asked` for.
    """
    local = Local()
    try:
        base = _base(models, name, local, asked=asked)
        if base is not None:
            _look(base, version, local)
    except OSError as error:
        local.findings.append(
            fault(
                str(error.filename or models),
                f"can't be read ({error.strerror})",
                "let yourself and the server's user read it: chmod -R a+rX",
            )
        )
    return local


def _base(models: Path, name: str, local: Local, *, asked: bool) -> Path | None:
    if not models.is_dir():
        kind, remedy = (
            (fault, "name the folder of the models")
            if asked
            else (warning, "name the models' folder by --models")
        )
        what = "is no directory" if models.exists() else "doesn't exist"
        local.findings.append(kind(str(models), f"{what}, so nothing on disk was looked at", remedy))
        return None
    if (models / name).is_dir():
        return models / name
    if store.versions(models) or models.name == name or holds_model(models) or models.name.isdigit():
        return models
    found = models_in(models)
    if not found and (inside := list(_misnamed(models))):
        local.findings.append(_rename(models, inside))
        return None
    local.findings.append(
        fault(
            str(models),
            f"holds no model {name}; found {listed(found)}",
            "name one of these by --model"
            if found
            else "name the models' folder by --models, or `tfship export`",
        )
    )
    return None


def _look(base: Path, version: int | None, local: Local) -> None:
    found = store.scan(base)
    local.versions, local.retired = found, frozenset(store.retired(base))
    for each in sorted(base.iterdir()):
        if HALF.fullmatch(each.name) and any(letter.isdigit() for letter in each.name):
            local.findings.append(
                warning(
                    str(each),
                    "by its name, a version that is being copied or was left half-way; no server loads it",
                    "rename it to a whole number when it is whole, or remove it",
                )
            )
    if not found:
        local.findings.append(_no_versions(base))
        return
    number = version if version is not None else max(found)
    if number not in found:
        local.findings.append(
            fault(str(base), f"no version {number}; found {listed(list(found))}", "ask for one of these")
        )
        return
    local.number = number
    for other in list(found)[-_MOST_VERSIONS:]:
        if other != number:
            # It may be none of this run's business, but the server would stumble over it.
            local.findings += [
                Finding(WARNING, each.about, each.found, each.remedy) for each in examine(found[other])[0]
            ]
    problems, local.signatures = examine(found[number])
    local.findings += problems
    local.findings += _published(found[number], local)
    if not any(each.level == FAULT for each in local.findings):
        local.findings.append(ok(str(found[number]), _described(found, local)))


def _described(found: Mapping[int, Path], local: Local) -> str:
    others = [number for number in found if number != local.number]
    return (
        f"{'input contract and hashes agree' if local.contract else 'its files are whole, as far as can be seen'}; "
        f"{'no other versions' if not others else f'other versions: {listed(others)}'}"
    )


def _no_versions(base: Path) -> Finding:
    """Say why a server would write that no versions of the servable were found under this base path."""
    nothing = 'no folder named by a whole number, so a server says "No versions of servable found"'
    if holds_model(base):
        if base.name.isdigit():
            return fault(
                str(base),
                "is a version itself, so as a base path it is one level too deep",
                f"give the server {base.parent} as base path",
            )
        return fault(
            str(base), f"{nothing}; the SavedModel lies in the base path itself", f"move it into {base / '1'}"
        )
    if inside := list(_misnamed(base)):
        return _rename(base, inside)
    deeper = [each.name for each in sorted(base.iterdir()) if each.is_dir() and store.versions(each)]
    if deeper:
        return fault(
            str(base),
            f"{nothing}; the versions lie one level deeper, in {listed(deeper)}",
            f"give the server {base / deeper[0]} as base path",
        )
    files = [each.name for each in base.iterdir() if each.name.isdigit()]
    return fault(
        str(base),
        f"{nothing}{f'; {listed(files)} is no folder' if files else ''}",
        f"run `tfship export`, or put a SavedModel into {base / '1'}",
    )


def _misnamed(base: Path) -> Iterator[str]:
    """Yield the names of folders that hold a model and aren't versions by their names."""
    for each in sorted(base.iterdir()):
        hidden = each.name.startswith((".", "retired-"))
        if each.is_dir() and not hidden and not each.name.isdigit() and holds_model(each):
            yield each.name


def _rename(base: Path, inside: list[str]) -> Finding:
    digits = re.sub(r"\D", "", inside[-1]) or "1"
    return fault(
        str(base),
        f"models lie in {listed(inside)}, which no server takes for versions",
        f"rename it to a whole number: mv {base / inside[-1]} {base / str(int(digits))}",
    )


def _published(path: Path, local: Local) -> Iterator[Finding]:
    """Yield what is wrong with what `tfship export` writes beside the model."""
    if not (path / CONTRACT).is_file():
        yield warning(
            str(path),
            f"no {CONTRACT}, so what the server takes can be compared with nothing but the SavedModel",
            "`tfship export` writes one",
        )
        if not (path / cards.CARD).is_file():
            return
    else:
        try:
            local.contract = contract.read(path)
        except (ArtifactError, RecursionError) as error:
            words = str(error).removeprefix(f"{path}/{CONTRACT}: ")
            yield fault(str(path / CONTRACT), words, "`tfship export` writes a new version")
            return
    if wrong := cards.damage(path):
        yield fault(
            str(path),
            f"not as it was published: {listed([each.removeprefix(f'{path}/') for each in wrong])}",
            "export or copy it again; `tfship versions verify` tells of all versions",
        )
