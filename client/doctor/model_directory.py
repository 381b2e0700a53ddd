"""Check of a directory of models, as a model server sees it: what it would load, and what prevents that."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfship.client.doctor.findings import FAULT, WARNING, Finding, fault, listed, ok, warning
from tfship.client.doctor.version_files import TEMPORARY_NAME, examine, holds_model
from tfship.export.preprocessing import input_contract as contract
from tfship.export.preprocessing.input_contract import CONTRACT, Contract
from tfship.export.publishing import cards, store
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import ArtifactError

__all__ = ["LocalModel", "inspect", "models_in"]

_MOST_VERSIONS = 10


@dataclass
class LocalModel:
    """A model on this machine: its versions, and contract and signatures of the checked version, `number`.

    `signatures` are the SavedModel's, None if it can't be read.
    """

    versions: Mapping[int, Path] = field(default_factory=dict)
    retired: frozenset[int] = frozenset()
    number: int | None = None
    contract: Contract | None = None
    signatures: Mapping[str, Signature] | None = None
    findings: list[Finding] = field(default_factory=list)


def models_in(models: Path) -> list[str]:
    """Return the names of the folders in `models` that hold versions."""
    try:
        return sorted(each.name for each in models.iterdir() if each.is_dir() and store.versions(each))
    except OSError:
        return []


def inspect(models: Path, name: str, version: int | None, *, required: bool) -> LocalModel:
    """Check the model `name` and its `version`, or its latest. `models` is the folder of models or the model's own.

    Never raises: an unreadable file is a finding. A missing `models` is a fault if it is `required`, else a warning.
    """
    local = LocalModel()
    try:
        base = _base(models, name, local, required=required)
        if base is not None:
            _inspect(base, version, local)
    except OSError as error:
        local.findings.append(
            fault(
                str(error.filename or models),
                f"can't be read ({error.strerror})",
                "make it readable for yourself and the server's user: chmod -R a+rX",
            )
        )
    return local


def _base(models: Path, name: str, local: LocalModel, *, required: bool) -> Path | None:
    if not models.is_dir():
        problem = "is no directory" if models.exists() else "doesn't exist"
        finding = (fault if required else warning)(
            str(models), f"{problem}, so no files were checked", "give the folder of models by --models"
        )
        local.findings.append(finding)
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
            "give one of these by --model"
            if found
            else "give the folder of models by --models, or run `tfship export`",
        )
    )
    return None


def _inspect(base: Path, version: int | None, local: LocalModel) -> None:
    found = store.scan(base)
    local.versions, local.retired = found, frozenset(store.retired(base))
    for each in sorted(base.iterdir()):
        if TEMPORARY_NAME.fullmatch(each.name) and any(letter.isdigit() for letter in each.name):
            local.findings.append(
                warning(
                    str(each),
                    "by its name, a version whose copy hasn't finished; no server loads it",
                    "rename it to an integer when it is complete, or remove it",
                )
            )
    if not found:
        local.findings.append(_no_versions(base))
        return
    number = version if version is not None else max(found)
    if number not in found:
        local.findings.append(
            fault(str(base), f"no version {number}; found {listed(list(found))}", "give one of these")
        )
        return
    local.number = number
    for other in list(found)[-_MOST_VERSIONS:]:
        if other != number:
            # Only warnings: the version isn't the checked one, but the server loads it, too.
            local.findings += [
                Finding(WARNING, each.about, each.found, each.remedy) for each in examine(found[other])[0]
            ]
    problems, local.signatures = examine(found[number])
    local.findings += problems
    local.findings += _published(found[number], local)
    if not any(each.level == FAULT for each in local.findings):
        local.findings.append(ok(str(found[number]), _described(found, local)))


def _described(found: Mapping[int, Path], local: LocalModel) -> str:
    others = [number for number in found if number != local.number]
    return (
        f"{'input contract and hashes match' if local.contract else 'no damaged or missing file found'}; "
        f"{'no other versions' if not others else f'other versions: {listed(others)}'}"
    )


def _no_versions(base: Path) -> Finding:
    """Return why a server would report that it found no versions of the servable under this base path."""
    nothing = 'no folder named by an integer, so a server reports "No versions of servable found"'
    if holds_model(base):
        if base.name.isdigit():
            return fault(
                str(base),
                "is a version, so it is one level too deep for a base path",
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
    """Yield the names of folders that hold a model, but whose names aren't version numbers."""
    for each in sorted(base.iterdir()):
        hidden = each.name.startswith((".", "retired-"))
        if each.is_dir() and not hidden and not each.name.isdigit() and holds_model(each):
            yield each.name


def _rename(base: Path, inside: list[str]) -> Finding:
    digits = re.sub(r"\D", "", inside[-1]) or "1"
    return fault(
        str(base),
        f"models lie in {listed(inside)}, which aren't version numbers, so no server loads them",
        f"rename it to an integer: mv {base / inside[-1]} {base / str(int(digits))}",
    )


def _published(path: Path, local: LocalModel) -> Iterator[Finding]:
    """Yield problems with the files that `tfship export` writes next to the model."""
    if not (path / CONTRACT).is_file():
        yield warning(
            str(path),
            f"no {CONTRACT}, so the server's signatures can only be compared with the SavedModel's",
            "write one by `tfship export`",
        )
        if not (path / cards.CARD).is_file():
            return
    else:
        try:
            local.contract = contract.read(path)
        except (ArtifactError, RecursionError) as error:
            words = str(error).removeprefix(f"{path}/{CONTRACT}: ")
            yield fault(str(path / CONTRACT), words, "write a new version by `tfship export`")
            return
        if local.contract.preparation == "digit" and not contract.is_current(path):
            yield warning(
                str(path / CONTRACT),
                "of an earlier schema: serving_bytes prepares images differently from this client",
                "write a new version by `tfship export`",
            )
    if wrong := cards.damage(path):
        yield fault(
            str(path),
            f"changed since it was published: {listed([each.removeprefix(f'{path}/') for each in wrong])}",
            "export or copy it again; `tfship versions verify` checks all versions",
        )
