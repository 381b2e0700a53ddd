"""Checks of the files in a version directory: whether they are complete and readable, and the signatures in them."""

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfship.client.doctor.findings import Finding, fault, listed, warning
from tfship.client.targets.model_info import parsed, signatures_of, with_method
from tfship.export.conversion.formats import SERVED_FILE
from tfship.export.runtimes.protocol import Signature
from tfship.serving.models import served_file

__all__ = ["TEMPORARY_NAME", "examine", "holds_model"]

# Temporary names that programs give to files while they copy them.
TEMPORARY_NAME = re.compile(
    r"(?i)\.stage-.*|.*\.(tmp|temp|part|partial|incomplete|filepart|crdownload)|.*(~|_temp|\.tempstate.*)"
)
_GRAPH = "saved_model.pb"
_GRAPHS = (_GRAPH, "saved_model.pbtxt")
_INDEX = Path("variables", "variables.index")
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
_VARIABLES = {"VarHandleOp", "VariableV2", "Variable"}
# In bytes. Larger graphs hold constants and would take seconds to read.
_LARGEST_GRAPH = 256 * 2**20


def holds_model(folder: Path) -> bool:
    """Tell whether the folder itself holds a model."""
    return any((folder / name).is_file() for name in (*_GRAPHS, SERVED_FILE))


def examine(path: Path) -> tuple[list[Finding], Mapping[str, Signature] | None]:
    """Return the problems of a version directory, and its SavedModel's signatures, None if they can't be read.

    Raises OSError if the directory can't be read.
    """
    about, again = str(path), "copy or export it again"
    files = {each.relative_to(path).as_posix(): each for each in sorted(path.rglob("*")) if each.is_file()}
    if not files:
        return [
            fault(
                about,
                "an empty version folder; a server tries to load it",
                f"fill it, or remove it: rmdir {path}",
            )
        ], None
    findings = list(_modes(path))
    if half := [name for name in files if TEMPORARY_NAME.fullmatch(name.rsplit("/")[-1])]:
        findings.append(
            fault(
                about,
                f"incomplete copy: {listed(half)} has a temporary name",
                "wait until it is copied, or copy it again",
            )
        )
    if empty := [name for name, each in files.items() if _matters(name) and not each.stat().st_size]:
        findings.append(fault(about, f"{listed(empty)} is empty (0 bytes)", again))
    graph = next((files[name] for name in _GRAPHS if name in files), None)
    if graph is None:
        return [*findings, *_without_graph(path, files)], None
    findings += _variables(path, files)
    if graph.name != _GRAPH or not 0 < graph.stat().st_size <= _LARGEST_GRAPH:
        return findings, None
    try:
        signatures, operators = _read_graph(graph)
    except ValueError as error:
        return [*findings, fault(str(graph), f"damaged or truncated ({error})", again)], None
    if operators & _VARIABLES and not any(name.startswith("variables/") for name in files):
        findings.append(
            fault(about, "incomplete copy: saved_model.pb uses variables, but there is no variables/", again)
        )
    return findings, signatures


def _matters(name: str) -> bool:
    return "/" not in name or name.startswith(("variables/", "assets.extra/", "tflite/", "web/"))


def _without_graph(path: Path, files: Mapping[str, Path]) -> Iterator[Finding]:
    if tflite := served_file.find(path):
        needs = "it, too" if tflite.name == SERVED_FILE else f"{SERVED_FILE} or a SavedModel"
        yield warning(
            str(path),
            f"holds {tflite.relative_to(path)} and no SavedModel",
            f"start the embedded server with --prefer_tflite_model; TensorFlow Serving needs {needs}",
        )
    elif deeper := [name for name in files if name.rsplit("/")[-1] in _GRAPHS]:
        yield fault(
            str(path),
            f"its SavedModel lies too deep, as {listed(deeper)}",
            f"move the content of {path / deeper[0].rsplit('/', 1)[0]} into {path}",
        )
    else:
        yield fault(str(path), f"no {_GRAPH} in it; found {listed(list(files))}", "copy or export it again")


def _variables(path: Path, files: Mapping[str, Path]) -> Iterator[Finding]:
    shards = [match for name in files if (match := _SHARD.fullmatch(name.removeprefix("variables/")))]
    index = _INDEX.as_posix() in files
    present, of = {int(each[1]) for each in shards}, {int(each[2]) for each in shards}
    missing = sorted(set(range(max(of, default=0))) - present) if len(of) == 1 else []
    again = "copy the whole version again, under a temporary name, and rename it when it is complete"
    if index and not shards:
        yield fault(str(path), f"incomplete copy: {_INDEX} without variables.data", again)
    elif shards and not index:
        yield fault(str(path), f"incomplete copy: variables.data without {_INDEX}", again)
    elif missing or len(of) > 1:
        parts = ", ".join(each[0] for each in shards)
        yield fault(str(path), f"incomplete copy: of the variables' parts, only {parts} exist", again)


def _modes(path: Path) -> Iterator[Finding]:
    closed = []
    for each in [path, *sorted(path.rglob("*"))]:
        mode, needed = each.stat().st_mode, stat.S_IROTH | (stat.S_IXOTH if each.is_dir() else 0)
        if mode & needed != needed:
            closed.append(each.relative_to(path.parent).as_posix())
    if closed:
        yield warning(
            str(path),
            f"only its owner can read {listed(closed)}",
            f"if the server runs as another user, such as in a container: chmod -R a+rX {path}",
        )


def _read_graph(path: Path) -> tuple[dict[str, Signature], set[str]]:
    """Return the signatures and all operators in a saved_model.pb. Raises ValueError if it is invalid."""
    from tfship.serving.protos.messages import saved_model_pb2

    graphs = parsed(saved_model_pb2.SavedModel, path.read_bytes()).meta_graphs
    served = next((each for each in graphs if "serve" in each.meta_info_def.tags), None)
    if served is None:
        raise ValueError('no graph with the tag "serve"')
    nodes = [served.graph_def.node, *(each.node_def for each in served.graph_def.library.function)]
    return with_method(signatures_of(served.signature_def)), {node.op for each in nodes for node in each}
