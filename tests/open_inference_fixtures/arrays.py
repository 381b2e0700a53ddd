"""Random arrays of the Open Inference Protocol's datatypes."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tfship.serving.open_inference.datatypes import DATATYPES


def arrays(name: str, shape: Any = None) -> st.SearchStrategy[NDArray[Any]]:
    """Return arrays of the datatype `name`, with NaN and infinities, by default of any small shape."""
    datatype = DATATYPES[name]
    shape = hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4) if shape is None else shape
    if datatype.dtype.is_string:
        return hnp.arrays(np.object_, shape, elements=st.binary(max_size=5))
    if name == "BF16":
        return hnp.arrays(np.uint16, shape).map(lambda bits: bits.view(datatype.dtype.numpy))
    return hnp.arrays(datatype.dtype.numpy, shape)


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Compare arrays; NaN equals NaN, of any bits."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype.kind == "V":
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def vectors() -> st.SearchStrategy[tuple[str, NDArray[Any]]]:
    """Return datatypes and vectors of them."""
    sizes = st.integers(0, 6)
    return st.sampled_from([*DATATYPES]).flatmap(lambda name: st.tuples(st.just(name), arrays(name, sizes)))
