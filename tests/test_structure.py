"""The structure that the README promises: imports point one way, and TensorFlow stays where it is needed."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from tfship.train.common import entry_point

LAYERS = ("train", "export", "serving", "client", "benchmarks")
# The only modules that import TensorFlow or Keras when they are imported, or inside a function.
AT_IMPORT = {
    "benchmarks/studies/usual_client.py",
    "benchmarks/studies/zoo/networks.py",
    "export/conversion/converter.py",
    "export/conversion/equalization.py",
    "export/conversion/saved_model_writer.py",
    "export/preprocessing/decoding.py",
    "export/preprocessing/digit.py",
    "export/preprocessing/graph.py",
    "export/preprocessing/morphology.py",
    "export/preprocessing/resampling.py",
    "export/publishing/warmup_requests.py",
    "train/callbacks.py",
    "train/data/augmentation.py",
    "train/data/input_pipeline.py",
    "train/distillation.py",
    "train/models.py",
    "train/trainer.py",
}
LATER = {
    "benchmarks/studies/training_time.py",
    "benchmarks/suite/model_probe.py",
    "export/runtimes/saved_model.py",
    "export/runtimes/signatures.py",
    "export/sources/keras_files.py",
    "export/sources/model_loading.py",
    "train/common/tensorflow_loader.py",
    "train/data/datasets.py",
    "train/workers.py",
}
# What a person takes in when they open a file or a folder.
MOST_LINES, MOST_MODULES = 400, 20


def modules() -> Iterator[Path]:
    for layer in LAYERS:
        found = (ROOT / layer).rglob("*.py")
        yield from (path for path in found if "node_modules" not in path.parts)


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


COMMANDS = sorted({each.module.removeprefix("tfship.") for each in entry_point.COMMANDS.values()})


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


def test_sizes_of_modules_and_folders() -> None:
    """Also part of `make lint`."""
    scripts = (ROOT / "client" / "web" / "src").rglob("*.js")
    files = [*modules(), *(ROOT / "tests").rglob("*.py"), *scripts]
    long = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in files if path.name != "__init__.py")
    assert {name: count for name, count in folders.items() if count > MOST_MODULES} == {}
