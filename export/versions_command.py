"""Commands of the version store: `tfship versions list | verify | rollback | restore | retire | c-source`.

tfship versions list                      list all versions, in service or retired
tfship versions verify cnn                hash the published versions again and compare with their cards
tfship versions rollback cnn              take the latest version out of service; servers fall back to the one before
tfship versions restore cnn               put it back into service
tfship versions retire cnn 3              take version 3 out of service
tfship versions c-source cnn --out src    write the int8 file as C source, for microcontrollers
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tfship.export.conversion import formats
from tfship.export.publishing import cards, store
from tfship.export.runtimes import tflite_micro
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.common.files import write_bytes

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code."""
    arguments = _parser().parse_args(argv)
    base = arguments.models / (getattr(arguments, "name", None) or "")
    match arguments.command:
        case "list":
            return _list(arguments)
        case "verify":
            return _verify(arguments)
        case "rollback":
            moved, now = store.rollback(base)
            print(f"{arguments.name}: the latest version is now {now}; `restore` brings back {moved}")
        case "restore":
            print(f"{arguments.name}: {store.restore(base, arguments.version)} is in service again")
        case "retire":
            moved = store.retire(base, arguments.version)
            print(f"{arguments.name}: version {arguments.version} is out of service, kept as {moved}")
        case "c-source":
            return _c_source(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("tfship versions", "Manage exported versions.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, version: str | None) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False, epilog=cli.EXIT_CODES
        )
        found.add_argument("name", nargs="?" if name in ("list", "verify") else None, metavar="NAME",
                           help="name of the servable")  # fmt: skip
        if version is not None:
            found.add_argument("version", nargs=version, type=int, metavar="N", help="number of the version")
        found.add_argument(
            "--models", type=Path, default=Path("models"), help="the folder of models (default: models)"
        )
        return found

    listing = command("list", "list all versions with their contents and state", version=None)
    listing.add_argument("--json", action="store_true", help="print a JSON list instead of the table")
    command("verify", "hash versions again and compare with their cards (all if none is given)", version="?")
    command("rollback", "take the latest version out of service; the previous one takes over", version=None)
    command("restore", "put a retired version back into service (the highest if none is given)", version="?")
    command("retire", "take one version out of service", version=None).add_argument(
        "version", type=int, metavar="N", help="number of the version"
    )
    source = command("c-source", "write a TFLite file as a C header and source", version="?")
    source.add_argument(
        "--format",
        choices=formats.FORMATS,
        default="int8_uint8",
        help="the format to write (default: int8_uint8, which takes raw pixels)",
    )
    source.add_argument(
        "--out", type=Path, default=Path(), help="the folder to write to (default: the current one)"
    )
    return parser


def _servables(models: Path, name: str | None) -> dict[str, dict[int, Path]]:
    """Return all versions with a card by servable and number, in service and retired."""
    bases = [models / name] if name else sorted(path for path in models.glob("*") if path.is_dir())
    found = {base.name: store.retired(base) | store.versions(base) for base in bases}
    exported = {
        key: {number: path for number, path in sorted(each.items()) if (path / cards.CARD).is_file()}
        for key, each in found.items()
    }
    exported = {key: each for key, each in exported.items() if each}
    if not exported:
        raise ArtifactError(f"{models / (name or '')}: holds no exported version; run `tfship export` first")
    return exported


def _list(arguments: argparse.Namespace) -> int:
    rows = []
    for name, versions in _servables(arguments.models, arguments.name).items():
        for number, path in versions.items():
            card = cards.read(path)
            rows.append(
                {
                    "model": name,
                    "version": number,
                    "state": "retired" if path.name.startswith("retired") else "in service",
                    "created": card.created,
                    "blessed": card.blessing["blessed"],
                    "accuracy": card.keras_accuracy["value"],
                    "tflite": card.serves,
                    "formats": [each["format"] for each in card.artefacts],
                    "bytes": sum(each.stat().st_size for each in path.rglob("*") if each.is_file()),
                }
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = [
        [
            row["model"],
            row["version"],
            row["state"],
            row["created"],
            "yes" if row["blessed"] else "no, forced",
            "unverified" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
            row["tflite"] or "–",
            f"{row['bytes'] / 2**20:.1f} MiB",
        ]
        for row in rows
    ]
    headers = ["model", "version", "state", "created", "blessed", "accuracy", "TFLite", "size"]
    align = ("left", "right", "left", "left", "left", "right", "left", "right")
    print(tabulate(table, headers, disable_numparse=True, colalign=align))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    damaged: list[str] = []
    for name, versions in _servables(arguments.models, arguments.name).items():
        chosen: dict[int, Path] = versions
        if arguments.version is not None:
            if arguments.version not in versions:
                raise ArtifactError(
                    f"{name}: no version {arguments.version}; expected one of {', '.join(map(str, versions))}"
                )
            chosen = {arguments.version: versions[arguments.version]}
        for path in chosen.values():
            wrong = cards.damage(path)
            print(f"{path}: {'; '.join(wrong) if wrong else 'unchanged since it was published'}")
            damaged += [f"{path}: {each}" for each in wrong]
    if damaged:
        raise ResultError(
            f"{damaged[0]}{f' and {len(damaged) - 1} more' * (len(damaged) > 1)}; export it again"
        )
    return 0


def _c_source(arguments: argparse.Namespace) -> int:
    base = arguments.models / arguments.name
    version = store.latest(base) if arguments.version is None else base / str(arguments.version)
    path = version / formats.FORMATS[arguments.format].file
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; export it with --formats {arguments.format}")
    name = f"{arguments.name}_{arguments.format}"
    texts: dict[str, Any] = dict(
        zip((".h", ".c"), tflite_micro.c_source(path.read_bytes(), name), strict=True)
    )
    for suffix, text in texts.items():
        file = arguments.out / f"{name}{suffix}"
        write_bytes(file, text.encode())
        print(file)
    return 0
