"""The images' contents: the packages that go into them, and the commands that the README and Compose give."""

import contextlib
import importlib.metadata
import itertools
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import ROOT
from serving_fixtures import run
from tfship.serving.docker.lock_subset import subset
from tfship.train.common.errors import ArtifactError

SERVING = ROOT / "serving"
DOCKERFILE = (SERVING / "docker" / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.txt").read_text()


# What goes into the images.


def packages(*more: str) -> set[str]:
    """The packages that the Dockerfile installs: into the small image, or, with TensorFlow as `more`, the full one."""
    roots = re.search(r'PACKAGES="(.+?)"', DOCKERFILE.replace("\\\n", ""))
    assert roots is not None
    return set(re.findall(r"^([a-z][\w.-]*)==", subset(LOCK, [*roots[1].split(), *more]), re.MULTILINE))


def test_a_part_of_a_lock_is_whole() -> None:
    lock = (
        "# by uv\n"
        "app==1 \\\n    --hash=sha256:aa\n    # via us\n"
        "both==1 ; python_full_version < '3.11' \\\n    --hash=sha256:bb\n    # via\n    #   app\n    #   big\n"
        "both==2 ; python_full_version >= '3.11' \\\n    --hash=sha256:cc\n    # via\n    #   app\n    #   big\n"
        "big==1 \\\n    --hash=sha256:dd\n    # via app\n"
        "deep==1 \\\n    --hash=sha256:ee\n    # via big\n"
    )
    assert subset(lock, ["app"]) == lock.removeprefix("# by uv\n")
    assert subset(lock, ["big"]).count("both==") == 2
    assert "app==1" not in subset(lock, ["big"])
    assert subset(lock, ["deep"]).startswith("deep==1 \\\n    --hash=sha256:ee\n")
    with pytest.raises(ValueError, match="not in the lock: bog, dep"):
        subset(lock, ["app", "dep", "bog"])


@pytest.mark.parametrize("more", [("tensorflow",), ()], ids=["full", "tflite"])
def test_the_images_hold_what_their_packages_need(more: tuple[str, ...]) -> None:
    chosen = packages(*more)
    assert ("tensorflow" in chosen) == bool(more)
    assert not chosen & {"matplotlib", "mlxtend", "pytest", "scikit-learn"}
    for name in chosen:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another platform or Python
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                    assert canonical(needed.name) in chosen, name


def test_the_small_image_holds_what_its_server_imports() -> None:
    kept = packages()
    owners = importlib.metadata.packages_distributions()
    hidden = {name for name, each in owners.items() if not kept & {canonical(owner) for owner in each}}
    hidden.discard("tfship")
    assert {"keras", "PIL", "requests", "scipy", "tensorflow", "tensorflow_serving"} <= hidden
    script = f"""
import importlib, pkgutil, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import tfship.export.runtimes.litert, tfship.serving as serving
for module in pkgutil.walk_packages(serving.__path__, "tfship.serving."):
    importlib.import_module(module.name)
"""
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_without_tensorflow_savedmodels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    script = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'")
sys.meta_path.insert(0, Hide())
from pathlib import Path
from tfship.export.runtimes.saved_model import SavedModel
from tfship.train.common import cli
sys.exit(cli.run(lambda _: SavedModel(Path({str(tmp_path)!r}))))
"""
    done = run(sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (ArtifactError.exit_code, "")
    assert (
        "a SavedModel needs TensorFlow, which can't be imported (No module named 'tensorflow')" in done.stderr
    )
    assert done.stderr.endswith("or serve a version's TFLite file with --prefer_tflite_model\n")


# One folder, one config, one set of ports, whatever serves.


def docker_run_lines() -> dict[str, list[str]]:
    """The `docker run` commands of serving/README.md by image, as words."""
    text = (ROOT / "serving" / "README.md").read_text().replace("\\\n", " ")
    commands = (
        shlex.split(line, comments=True) for line in re.findall(r"^docker run .+$", text, re.MULTILINE)
    )
    return {
        word: words
        for words in commands
        for word in words
        if re.fullmatch(r"tfship|tensorflow/serving.*", word)
    }


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(words) if option == name]


def test_compose_and_the_readme_run_either_server_on_the_same_files() -> None:
    text = (SERVING / "docker" / "compose.yaml").read_text()
    command = re.search(r'^  command: \["(.+)"\]$', text, re.MULTILINE)
    assert command is not None
    ports = re.findall(r'^    - "(.+)"$', text, re.MULTILINE)
    assert ports == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    volumes = dict(re.findall(r"^    - (\.\S+):(/\S+:ro)$", text, re.MULTILINE))
    mounts = {(SERVING / "docker" / source).resolve(): target for source, target in volumes.items()}
    assert mounts == {ROOT / "models": "/models:ro", SERVING / "models.config": "/config/models.config:ro"}
    assert command[1] == "--model_config_file=/config/models.config"
    assert re.findall(r"^  (\w+):\n    <<: \*serving\n    profiles: \[\"(\w+)\"\]$", text, re.MULTILINE) == [
        ("tfship", "tfship"),
        ("official", "official"),
    ]

    images = re.findall(r"^    image: (.+)$", text, re.MULTILINE)
    lines = docker_run_lines()
    assert set(lines) == set(images)
    for image, words in lines.items():
        assert options(words, "-p") == ports
        assert options(words, "-v") == [
            f"{path}:{mount}".replace(str(ROOT), "$PWD") for path, mount in mounts.items()
        ]
        assert words[words.index(image) + 1 :] == [command[1]]


@pytest.mark.parametrize("profile", ["tfship", "official"])
def test_compose_files_are_valid(profile: str) -> None:
    for compose in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(compose[0]) and run(*compose, "version").returncode == 0:
            break
    else:
        pytest.skip("no Docker Compose here, neither `docker compose` nor docker-compose")
    done = run(
        *compose, "-f", SERVING / "docker" / "compose.yaml", "--profile", profile, "config", "--services"
    )
    assert (done.returncode, profile in done.stdout.split()) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["IMAGE=digit.png"], 2, "IMAGE=digit.png: expected tfship (the default) or official"),
        (["COMPOSE=false"], 2, "`false` doesn't run here"),
    ],
)
def test_make_serve_docker_says_what_is_wrong(arguments: list[str], code: int, says: str) -> None:
    done = run("make", "serve-docker", *arguments)
    assert done.returncode == code
    assert f"error: {says}" in done.stderr
