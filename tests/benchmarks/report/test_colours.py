"""The formats' colours, as the colour-blind see them."""

from typing import Any

import numpy as np
import pytest

from tfship.benchmarks.report import colours

# What is seen of light, sRGB's primaries, by Machado et al. (2009); OKLab is Ottosson's (2020).
SEEN = {
    "as it is": np.eye(3),
    "red-blind": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "green-blind": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_two_formats_are_told_apart_by_the_colour_blind(theme: int) -> None:
    for vision in SEEN.values():
        found = [
            TO_LAB @ np.cbrt(TO_CONES @ np.clip(vision @ linear(each[theme]), 0, 1))
            for each in colours.FORMATS.values()
        ]
        distances = [np.linalg.norm(a - b) for place, a in enumerate(found) for b in found[:place]]
        assert min(distances) > 0.09


def linear(colour: str) -> Any:
    """sRGB to light, a colour like #d0450b to float64 [3]."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
