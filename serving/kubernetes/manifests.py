"""Table of the overlays: ways to run the server on Kubernetes, each with a committed rendered manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CLAIM", "FOLDER", "IMAGE", "OBJECTS", "OVERLAYS", "Manifest", "Overlay", "documents", "dump", "rendered",
]  # fmt: skip

FOLDER = Path(__file__).resolve().parent
# A Kubernetes object as parsed YAML.
Manifest = dict[str, Any]
# Kinds of model locations.
CLAIM, OBJECTS, IMAGE = "claim", "objects", "image"


@dataclass(frozen=True)
class Overlay:
    """An overlay: its `source`, a folder for kustomize, and its `purpose` for `--help`.

    `location` is the kind of location of its models, "" for none. `schemes` are the URL schemes of object storage.
    `serves_image` is whether the image of the server is part of it.
    """

    source: str
    purpose: str
    location: str = CLAIM
    schemes: tuple[str, ...] = ()
    serves_image: bool = True


OVERLAYS = {
    "volume": Overlay("overlays/volume", "our image, models in a PersistentVolumeClaim"),
    "keda": Overlay("overlays/keda", "the same, scaled by KEDA instead of a HorizontalPodAutoscaler"),
    "object-storage": Overlay(
        "overlays/object-storage", "our image, models in object storage", OBJECTS, ("s3", "gs", "az")
    ),
    "oci": Overlay("overlays/oci", "our image, models in an OCI image", IMAGE),
    "official": Overlay("overlays/official", "tensorflow/serving, models in a PersistentVolumeClaim"),
    "kserve-runtimes": Overlay("kserve/runtimes", "KServe: the runtimes, once for a cluster", ""),
    "kserve-volume": Overlay(
        "kserve/volume", "KServe: models in a PersistentVolumeClaim", CLAIM, serves_image=False
    ),
    "kserve-s3": Overlay(
        "kserve/s3", "KServe: models in object storage", OBJECTS, ("s3", "gs", "https"), serves_image=False
    ),
    "kserve-oci": Overlay("kserve/oci", "KServe: models in an OCI image", IMAGE, serves_image=False),
    "kserve-canary": Overlay(
        "kserve/canary", "KServe: a tenth of the requests for a new revision", OBJECTS, ("s3", "gs", "https"),
        serves_image=False,
    ),
}  # fmt: skip


def rendered(name: str) -> Path:
    """Return the path of the committed manifest of an overlay."""
    return FOLDER / "rendered" / f"{name}.yaml"


def documents(name: str) -> list[Manifest]:
    """Return the objects in the committed manifest of an overlay."""
    import yaml  # not in the images of the server

    return list(yaml.safe_load_all(rendered(name).read_text(encoding="utf-8")))


def dump(manifests: list[Manifest]) -> str:
    """Return objects as YAML, with texts of several lines as blocks and without anchors."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(manifests, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
