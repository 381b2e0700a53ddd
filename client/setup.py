"""Build the distribution tfship-client: `pip install ./client`.

Its package `tfship_client` is the package `client`, with those modules of `train`, `export` and `serving` that it
imports, anywhere in it, as `tfship_client._tfship`. What they import of each other is rewritten to these names: no
package called `train` or `client` may land in anyone's site-packages, nor be taken for somebody else's.
"""

import ast
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

__all__ = ["collected", "rewritten"]

_HERE = Path(__file__).resolve().parent
_NAME = "tfship_client"
_PACKAGES = {"client": _NAME, **{name: f"{_NAME}._tfship.{name}" for name in ("train", "export", "serving")}}
# What draws the samples, and this.
_NOT_INSTALLED = {"client.draw_samples", "client.setup"}
# A string at the beginning of a call of these names a module.
_IMPORTERS = {"import_module", "run_module"}
_FROM = re.compile(rb"from\s+(\w+)")
_STRING = re.compile(rb"""[fFrR]*["']+(\w+)""")


def collected(root: Path) -> dict[Path, bytes]:
    """Return the files of the package `tfship_client`, by their paths, from a clone of the repository at `root`.

    A file that has a module's name and another suffix, its data, comes with it. Raises SystemExit where a part of
    the repository is missing, or for an import that can't be rewritten.
    """
    for name in _PACKAGES:
        if not (root / name).is_dir():
            raise SystemExit(
                f"error: {root}: no folder {name} here; build tfship-client in a whole clone of tfship"
            )
    waiting = [name for name in _modules(root, "client") if name not in _NOT_INSTALLED]
    seen = set()
    files = {Path(_NAME, "_tfship", "__init__.py"): b"", Path(_NAME, "py.typed"): b""}
    files[Path(_NAME, "LICENSE")] = (root / "LICENSE").read_bytes()
    while waiting:
        module = waiting.pop()
        path = _path(root, module)
        if path is None or module in seen:
            continue
        seen.add(module)
        package, *inside = path.relative_to(root).parts
        target = Path(*_PACKAGES[package].split("."), *inside)
        source = path.read_bytes()
        files[target] = rewritten(source, str(path))
        for data in path.parent.glob(f"{path.stem}.*"):
            files.setdefault(target.with_name(data.name), data.read_bytes())
        parent, _, _ = module.rpartition(".")
        waiting += [parent, *_imports(ast.parse(source))] if parent else _imports(ast.parse(source))
    return files


def rewritten(source: bytes, name: str) -> bytes:
    """Return a module's source with its imports of our packages by their names in `tfship_client`.

    Raises SystemExit, with `name` and the line, for `import package.module`: it binds the package's own name.
    """
    lines = source.splitlines(keepends=True)
    for line, column, package in sorted(_places(ast.parse(source, name), lines, name), reverse=True):
        text = lines[line]
        lines[line] = text[:column] + _PACKAGES[package].encode() + text[column + len(package) :]
    return b"".join(lines)


def _places(tree: ast.AST, lines: list[bytes], name: str) -> Iterator[tuple[int, int, str]]:
    """Yield the line, the column and the name wherever one of our packages is named to be imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                if package in _PACKAGES and not alias.asname:
                    raise SystemExit(
                        f"error: {name}:{node.lineno}: import {alias.name}; expected from {package} import …, or an "
                        "alias, for a package that gets another name"
                    )
                if package in _PACKAGES:
                    yield alias.lineno - 1, alias.col_offset, package
        elif isinstance(node, ast.ImportFrom):
            yield from _place(_FROM, node, lines)
        elif (string := _dynamic(node)) is not None:
            yield from _place(_STRING, string, lines)


def _place(
    pattern: re.Pattern[bytes], node: ast.stmt | ast.expr, lines: list[bytes]
) -> Iterator[tuple[int, int, str]]:
    match = pattern.match(lines[node.lineno - 1], node.col_offset)
    if match and (package := match[1].decode()) in _PACKAGES:
        yield node.lineno - 1, match.start(1), package


def _dynamic(node: ast.AST) -> ast.expr | None:
    """Return the string that begins a call of an importing function, whether it is an f-string or not."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return node.args[0] if called in _IMPORTERS else None
    return None


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the names of all that is imported of our packages; of `from a import b`, a.b may be no module."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(string := _dynamic(node), ast.Constant):
            names = [str(string.value)]
        yield from (name for name in names if name.partition(".")[0] in _PACKAGES)


def _modules(root: Path, package: str) -> Iterator[str]:
    """Yield the names of all modules of a package, and of the packages in it."""
    folder = root.joinpath(*package.split("."))
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield package if path.stem == "__init__" else f"{package}.{path.stem}"
        elif (path / "__init__.py").is_file():
            yield from _modules(root, f"{package}.{path.name}")


def _path(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((each for each in (base.with_suffix(".py"), base / "__init__.py") if each.is_file()), None)


def _files() -> dict[Path, bytes]:
    """Return the package's files: as an sdist holds them, or else of the clone around this folder."""
    made = _HERE / _NAME
    if made.is_dir():
        return {each.relative_to(_HERE): each.read_bytes() for each in made.rglob("*") if each.is_file()}
    return collected(_HERE.parent)


def _write(folder: Path) -> None:
    shutil.rmtree(folder / _NAME, ignore_errors=True)
    for path, content in _files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


class _Build(build_py):  # type: ignore[misc]
    def run(self) -> None:
        if self.editable_mode:
            raise SystemExit(
                "error: tfship-client is made of a copy, so it can't be installed as editable; install it without -e, "
                "or put the repository's root on PYTHONPATH and import client"
            )
        _write(Path(self.build_lib))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: ARG002
        return [str(each) for each in Path(self.build_lib, _NAME).rglob("*") if each.is_file()]

    def get_source_files(self) -> list[str]:
        return []


class _Source(sdist):  # type: ignore[misc]
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        _write(Path(base_dir))


if __name__ == "__main__":
    # What setuptools writes on the way is nobody's business, and another build's must not get into this one.
    with tempfile.TemporaryDirectory(prefix="tfship-") as between:
        setup(
            cmdclass={"build_py": _Build, "sdist": _Source},
            options={"build": {"build_base": between}, "egg_info": {"egg_base": between}},
        )
