"""The places of labels in plots."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfship.benchmarks.report import labels
from tfship.benchmarks.report.drawing import Canvas
from tfship.benchmarks.report.labels import Box, Label


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    placed = labels.spread(wanted, 17, 0, 300)
    assert min(placed) >= -1e-6
    assert max(placed) <= 300 + 1e-6
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gaps = np.diff([placed[index] for index in order])
    assert np.all(gaps >= 17 - 1e-6)


def test_labels_with_room_stay_where_they_are() -> None:
    assert labels.spread([200.0, 10.0, 100.0], 17, 0, 300) == [200, 10, 100]
    assert labels.spread([100.0, 100.0], 20, 0, 300) == [90, 110]
    assert labels.spread([0.0, 0.0], 20, 0, 300) == [0, 20]


def test_labels_around_points_that_coincide_cover_nothing() -> None:
    from matplotlib.figure import Figure

    canvas = Canvas(Figure(figsize=(340 / 72, 400 / 72), dpi=72), narrow=True, text=13)
    axes = canvas.axes(left=46, right=12, top=30, bottom=46)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    names = [f"format {number}" for number in range(9)]
    labels.near_points(
        canvas, axes, [Label(name, "int8", 3 + place % 4, 50, 8) for place, name in enumerate(names)]
    )
    texts = [text for text in canvas.figure.texts if text.get_text() in names]
    boxes = [Box(*text.get_window_extent().extents) for text in texts]
    assert len(boxes) == 9
    assert all(not one.overlap(other) for place, one in enumerate(boxes) for other in boxes[:place])
    x, y = axes.transData.transform((4.5, 50))
    assert not any(box.overlap(Box(x - 8, y - 6, x + 8, y + 6)) for box in boxes)


def test_boxes_overlap_by_what_both_cover() -> None:
    assert Box(0, 0, 10, 10).overlap(Box(5, 8, 20, 20)) == 10
    assert Box(0, 0, 10, 10).overlap(Box(10, 0, 20, 10)) == 0
