"""Fields of KServe's objects, a JSON list from the standard input, that the models in KServe's SDK don't have."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes.client  # type: ignore[import-not-found]
from kserve import models  # type: ignore[import-not-found]

_ROOTS = {
    "InferenceService": "V1beta1InferenceService",
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
}
_PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}


def unknown(value: Any, kind: str, path: str) -> Iterator[str]:
    """Yield a line for each field of `value` that the type `kind` doesn't have, or that has another type."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: expected a list"
            return
        for index, each in enumerate(value):
            yield from unknown(each, match[1], f"{path}[{index}]")
    elif match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for key, each in value.items():
            yield from unknown(each, match[1], f"{path}.{key}")
    elif model := getattr(models, kind, None):
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, each in value.items():
            if key in names:
                yield from unknown(each, model.openapi_types[names[key]], f"{path}.{key}")
            else:
                yield f"{path}.{key}: not a field of {kind}"
    elif model := getattr(kubernetes.client, kind, None):
        yield from lost(value, json.loads(json.dumps(kept(value, model), default=str)), path)
    elif kind in _PLAIN and not isinstance(value, _PLAIN[kind]):
        yield f"{path}: expected {kind}"


def kept(value: Any, model: Any) -> Any:
    """Return what Kubernetes' own model keeps of `value`."""
    if hasattr(model, "from_dict"):
        return model.from_dict(value).to_dict()
    client = kubernetes.client.ApiClient()
    answer = type("Answer", (), {"data": json.dumps(value)})
    return client.sanitize_for_serialization(client.deserialize(answer, model))


def lost(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield a line for each field of `before` that isn't in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        # Some releases of the models give names such as mount_path.
        found = {key.replace("_", "").lower(): each for key, each in after.items()}
        for key, each in before.items():
            if key.lower() not in found:
                yield f"{path}.{key}: not a field"
            else:
                yield from lost(each, found[key.lower()], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")


for manifest in json.load(sys.stdin):
    for line in unknown(manifest, _ROOTS[manifest["kind"]], manifest["kind"]):
        print(line)
