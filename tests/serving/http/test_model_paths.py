"""Paths of the REST API, by TensorFlow Serving's regular expressions."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.serving.http.model_paths import ModelPath, find, is_in_api, is_uri
from tfship.serving.protos.status import StatusError

# As they are in http_rest_api_util.cc.
POST = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.ASCII,
)
GET = re.compile(
    r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:\/(metadata))?", re.ASCII
)
PIECES = st.lists(
    st.sampled_from(
        [
            *("/v1/models", "/V1/Models", "/", ":", "m", "a%2Fb", "?", "a=b", "#x", "/versions/", "/Labels/"),
            *("12", "é", "/metadata", "/METADATA", ":predict", ":Predict", ":regress", ":classify"),
        ]
    ),
    max_size=7,
).map("".join)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "/v1/models/m:predict", ("m", "", "", "predict")),
        ("POST", "/V1/MODELS/m/VERSIONS/07:regress", ("m", "07", "", "regress")),
        ("POST", "/v1/models/m/labels/a%20b:classify", ("m", "", "a%20b", "classify")),
        ("POST", "/v1/models/m:Predict", None),
        ("POST", "/v1/models/m:predict?a=b", None),
        ("POST", "/v1/models/m?a=b:predict", ("m?a=b", "", "", "predict")),
        ("POST", "/v1/models/m", None),
        ("GET", "/v1/models", ("", "", "", "")),
        ("GET", "/v1/models?a=b", None),
        ("GET", "/v1/models/", None),
        ("GET", "/v1/models/m?a=b", ("m?a=b", "", "", "")),
        ("GET", "/v1/models/m/versions/1?a=b", None),
        ("GET", "/v1/models/m/labels/l?a=b", ("m", "", "l?a=b", "")),
        ("GET", "/v1/models/versions/1", ("", "1", "", "")),
        ("GET", "/v1/models/metadata", ("metadata", "", "", "")),
        ("GET", "/v1/models/m/metadata", ("m", "", "", "metadata")),
        ("GET", "/v1/models/m/Metadata", ("m", "", "", "Metadata")),
        ("GET", "/v1/models/m:predict", None),
        ("PUT", "/v1/models/m:predict", None),
        ("HEAD", "/v1/models/m", None),
    ],
)
def test_paths(method: str, target: str, expected: tuple[str, str, str, str] | None) -> None:
    assert find(method, target) == (expected and ModelPath(*expected))


@given(st.sampled_from(["GET", "POST"]), PIECES)
def test_paths_are_matched_as_there(method: str, target: str) -> None:
    match = (POST if method == "POST" else GET).fullmatch(target)
    parts = ModelPath(*(part or "" for part in match.groups())) if match else None
    if method == "POST" and parts and parts.action not in ("classify", "regress", "predict"):
        parts = None
    assert find(method, target) == parts


@given(st.text(min_size=1), st.integers(0, 2**63 - 1))
def test_names_and_versions_come_back(name: str, version: int) -> None:
    target = f"/v1/models/{quote(name, safe='')}/versions/{version}"
    found = find("GET", target)
    assert found
    assert is_uri(target)
    assert (found.spec().name, found.spec().version.value) == (name, version)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/v1/models/versions/1", "Missing model name in request."),
        ("/v1/models/%ff", "%ff is not UTF-8"),
        (f"/v1/models/m/versions/{2**63}", "larger than an int64"),
    ],
)
def test_parts_that_are_invalid(target: str, message: str) -> None:
    found = find("GET", target)
    assert found
    with pytest.raises(StatusError, match=message):
        found.spec()


def test_what_is_in_the_api() -> None:
    assert all(map(is_in_api, ("/v1/", "/V1/x", "/v1/models?x")))
    assert not any(map(is_in_api, ("/v1", "/v2/models", "/x/v1/models", "/")))


@pytest.mark.parametrize(
    "target", ["/v1/%7", "/a b", "/é", "/a|b", '/"', "/a\\b", "/[x]", "/a#b#c", "/a?b=%zz", "/\x7f"]
)
def test_targets_that_libevent_refuses(target: str) -> None:
    assert not is_uri(target)


@pytest.mark.parametrize("target", ["/", "/v1/models/a-b_c.d~e", "/a?b=c?d/e&f=%C3%a9#g?", "/!$&'()*+,;=:@"])
def test_targets_that_libevent_accepts(target: str) -> None:
    assert is_uri(target)
