"""The process in which libFuzzer works: `python -m tests.fuzzing.inside FOLDER CASES SEED FAILURES FILE`.

The server runs here, too, its code instrumented by Atheris, and is sent to over its ports as any other; what an answer
may be, `answers` says. A case's first byte says where the rest goes: to a port as it is, or in a POST or a gRPC call.
The first cases are some that hypothesis draws.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# All that imports the server: what is there already would stay as it is.
with atheris.instrument_imports(include=["tfship.serving"]):
    import grpc

    import serving_fixtures as fixtures
    from fuzzing import grpc_cases, http_cases, open_inference_cases
    from fuzzing.answers import Sender
    from fuzzing.cases import REST, Case, Served
    from fuzzing.run import drawn
    from fuzzing.target import MODELS, signatures
    from tfship.serving.server.host import Host  # noqa: F401 - the server itself imports it late
    from tfship.serving.server.settings import Settings

_MOST_SEEDS = 12
_MOST_BYTES = 4096
_CASE_SECONDS = 60
# TensorFlow alone takes half a gigabyte.
_MIB = 4096


def main(folder: Path, cases: str, seed: str, failures: str, file: str) -> None:
    """Send so many cases, or the one in `file`; libFuzzer then ends the process, with 0 if none failed."""
    fixtures.publish(folder / "lite", 3)
    paths = {"lite": folder / "lite", **{name: fixtures.tiny_models() / name for name in MODELS}}
    with fixtures.serving(fixtures.config_of(**paths), Settings(loader=fixtures.TFLITE)) as client:
        served = [each for name in paths for each in signatures(client, name)]
        places = _places(served)
        # Some 75 cases each, so that they are half of all at most: the others are libFuzzer's.
        seeds = min(_MOST_SEEDS, 1 + int(cases) // 200)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, case in enumerate(_first(served, places, int(seed), seeds)):
            (corpus / str(number)).write_bytes(case[:_MOST_BYTES])
        flags = [
            *(f"-runs={cases}", f"-seed={seed}", f"-max_len={_MOST_BYTES}", f"-timeout={_CASE_SECONDS}"),
            *(f"-rss_limit_mb={_MIB}", f"-artifact_prefix={failures}/", "-print_final_stats=1"),
        ]
        channel = grpc.insecure_channel(f"127.0.0.1:{client.grpc_port}")
        sender = Sender(client.rest_port, client.grpc_port, [channel])
        atheris.Setup([sys.argv[0], *flags, file or str(corpus)], _sending(sender, places))
        atheris.Fuzz()


def _sending(sender: Sender, places: Sequence[str]) -> Callable[[bytes], None]:
    def send(data: bytes) -> None:
        if data:
            place, content = places[data[0] % len(places)], data[1:]
            if place.startswith(("/v1/", "/v2/")):
                place, content = REST, http_cases.post(place, content)
            sender.send(Case("guided", place, content))

    return send


def _places(served: Sequence[Served]) -> list[str]:
    """Return where cases go: to the REST port as they are, in a POST to a path, in a call of a gRPC method."""
    paths = [f"/v1/models/{model}:predict" for model in dict.fromkeys(each.model for each in served)]
    return [
        REST,
        *paths,
        *(f"/v1/models/examples:{verb}" for verb in ("classify", "regress")),
        *(f"/v2/models/{model}/infer" for model in dict.fromkeys(each.model for each in served)),
        *grpc_cases.METHODS,
        open_inference_cases.INFER,
    ]


def _first(served: Sequence[Served], places: Sequence[str], seed: int, seeds: int) -> list[bytes]:
    def case(place: str, content: bytes) -> bytes:
        return bytes([places.index(place)]) + content

    found = [case(REST, each.data) for each in drawn(http_cases.http(served), seeds, seed)]
    found += [case(each.to, each.data) for each in drawn(grpc_cases.calls(served), 10 * seeds, seed)]
    for one in served:
        requests = drawn(open_inference_cases.infer_bodies(one), seeds, seed)
        found += [case(f"/v2/models/{one.model}/infer", body) for body, _ in requests]
        messages = drawn(open_inference_cases.infer_messages(one), seeds, seed)
        found += [case(open_inference_cases.INFER, message) for message in messages]
        for verb in ("predict", "classify", "regress") if one.model == "examples" else ("predict",):
            bodies = drawn(http_cases.json_bodies(one, verb), seeds, seed)
            found += [case(f"/v1/models/{one.model}:{verb}", body) for body in bodies]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
