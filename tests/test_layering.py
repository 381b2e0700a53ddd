"""The structure that the README promises: imports point one way, and TensorFlow stays where it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from tfship.train import command

LAYERS = ("train", "export", "serving", "client", "benchmarks")
# The only modules that import TensorFlow or Keras when they are imported, or inside a function.
AT_IMPORT = {
    *(f"train/{module}.py" for module in ("augment", "batches", "callbacks", "distill", "fit", "models")),
    *(f"export/{module}.py" for module in ("convert", "decoding", "digit", "equalize", "morphology")),
    *(f"export/{module}.py" for module in ("prepare", "resampling", "tflite", "warmup")),
    *(f"benchmarks/{module}.py" for module in ("usual_client", "zoo_models")),
}
LATER = {
    *(f"train/{module}.py" for module in ("backend", "data", "workers")),
    *(f"export/{module}.py" for module in ("keras_files", "loading", "savedmodel", "signatures")),
    *(f"benchmarks/{module}.py" for module in ("probe", "training")),
}


def modules() -> Iterator[Path]:
    for layer in LAYERS:
        yield from (ROOT / layer).rglob("*.py")


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def after(layer: int) -> tuple[str, ...]:
    return tuple(f"tfship.{name}" for name in LAYERS[layer + 1 :])


def test_packages_import_only_those_before_them() -> None:
    wrong = []
    for path in modules():
        layer = LAYERS.index(path.relative_to(ROOT).parts[0])
        for node in ast.walk(ast.parse(path.read_text())):
            later = [name for name in imported(node) if name.startswith(after(layer))]
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in later]
    assert wrong == []


def test_tensorflow_is_confined_to_the_modules_that_need_it() -> None:
    at_import, anywhere = set(), set()
    for path in modules():
        tree, name = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()
        for node in ast.walk(tree):
            if any(each.split(".")[0] in ("tensorflow", "keras") for each in imported(node)):
                anywhere.add(name)
                if node in tree.body:
                    at_import.add(name)
    assert at_import == AT_IMPORT
    assert anywhere - at_import == LATER


COMMANDS = sorted({each.module.removeprefix("tfship.") for each in command.COMMANDS.values()})


@pytest.mark.parametrize("package", [*LAYERS, *COMMANDS, "train.command"])
def test_importing_is_light(package: str) -> None:
    script = f"import sys, tfship.{package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"tensorflow", "keras", "pandas", "sklearn", "matplotlib"}


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
