"""One input, the changes that make a bad one of a good one, and what a case needs to know of the models."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hypothesis import strategies as st

__all__ = ["GRPC", "REST", "Case", "Served", "mutated"]

# Where a case goes as it is, byte by byte; all other cases are the message of a gRPC method.
REST, GRPC = "the REST port", "the gRPC port"


@dataclass(frozen=True)
class Case:
    """What is sent: `data` to `to`, which is REST, GRPC or a gRPC method's path.

    `kind` says what made it. To REST it goes in pieces that end at the places `cuts`.
    """

    kind: str
    to: str
    data: bytes
    cuts: Sequence[int] = ()

    def save(self, folder: Path) -> Path:
        """Write the case to a file whose name is its hash, and return the path."""
        path = folder / f"{self.kind}-{hashlib.sha256(self.data).hexdigest()[:16]}.json"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "data": base64.b64encode(self.data).decode()}))
        return path

    @staticmethod
    def load(path: Path) -> "Case":
        """Return a case that was saved."""
        fields = json.loads(path.read_text())
        return Case(**{**fields, "data": base64.b64decode(fields["data"])})


@dataclass(frozen=True)
class Served:
    """A signature that the server serves: its inputs' DataType numbers and shapes (None: any rank) by name."""

    model: str
    signature: str
    inputs: Mapping[str, tuple[int, tuple[int, ...] | None]]


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw what `whole` draws, mostly as it is, else with a few of its bytes changed."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.sampled_from([0] * 8 + [1, 1, 2, 4]))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "flip", "insert", "remove", "repeat", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del data[at : at + draw(st.integers(1, 16))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 4))
            case "end":
                del data[at:]
    return bytes(data)
