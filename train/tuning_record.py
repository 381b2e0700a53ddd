"""Settings that were tried for the `best` recipes, with their results, as recorded in the cards.

Errors are counted on 5,000 validation images, in one run each. Two runs of the same recipe differ by about five.
"""

__all__ = ["TRIED"]

_RUNS: dict[str, list[tuple[str, int]]] = {
    "cnn": [
        ("3 epochs, no distortion, no teachers, dropout 0.3", 43),
        ("the same, rotation 6°, scale and shear 0.05, shift 1", 43),
        (
            "15 epochs, rotation 11°, scale 0.12, shear 0.15, shift 2, label smoothing 0.05, weight average",
            24,
        ),
        ("the same with elastic 1.5 and weight decay, no weight average", 30),
        ("the same without elastic, 30 epochs, weight decay, weight average", 25),
        ("these weights, two more epochs on images as they are", 19),
        ("these weights, two more epochs on images hardly distorted", 23),
        ("20 epochs, the last fifth of them on images as they are", 23),
        ("a network with batch normalization, 8 epochs: the later teacher", 17),
        ("20 epochs with three teachers, of 12 epochs each", 20),
    ],
    "nn": [
        ("three teachers, 20 views, 120 epochs, teachers' weight 0.9, last tenth on images as they are", 37),
        ("the same, teachers' weight 0.7", 32),
        ("the same, all epochs on distorted images", 36),
        ("the same, 240 epochs of twice the batch", 35),
        ("the same, shift 0.8 instead of 2, elastic 1.0, all else a little less", 35),
        ("40 views, shift 2 again", 29),
    ],
}

# In the format of `Card.tried`.
TRIED = {
    network: [{"what": what, "validation_errors": errors} for what, errors in runs]
    for network, runs in _RUNS.items()
}
