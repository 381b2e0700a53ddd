"""Settings that were tried for the `best` and `robust` recipes, with their results, as recorded in the cards.

Errors are counted on 5,000 validation images, in one run each. Two runs of the same recipe differ by about five. The
accuracy on corrupted copies of them is the mean of all kinds but inverted ink, which the client undoes.
"""

__all__ = ["TRIED"]

# (settings, validation errors, and the accuracy on corrupted copies where it was measured)
_RUNS: dict[str, list[tuple[str, int] | tuple[str, int, float]]] = {
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
        ("8 epochs without teachers, rotation 11°, scale 0.12, shear 0.15, shift 2, elastic 0.8", 29, 0.951),
        (
            "the same, a share 0.2 degraded: thickness 0.6, resolution 10, blur 1.2, contrast 0.3, noise 0.35",
            37,
            0.968,
        ),
        ("the same, 12 epochs, two teachers", 34, 0.973),
        (
            "8 epochs, no teachers, rotation 20°, scale 0.25, shear 0.2, shift 3, elastic 0.8, degraded",
            33,
            0.978,
        ),
        ("the same, batch normalization while training", 29, 0.983),
        ("the same, a share 0.1 degraded", 27, 0.982),
        ("the same, 20 epochs with three teachers, of 12 epochs each", 25, 0.985),
        ("the same, the last steps on images that aren't degraded", 25, 0.984),
        ("the same, squares of 5 pixels erased", 24, 0.987),
        ("the same, nothing degraded", 23, 0.846),
        ("the same, rotation 11°, scale 0.12, shear 0.15, shift 2 again", 20, 0.875),
        ("the same, degraded and erased again", 21, 0.984),
    ],
    "nn": [
        ("three teachers, 20 views, 120 epochs, teachers' weight 0.9, last tenth on images as they are", 37),
        ("the same, teachers' weight 0.7", 32),
        ("the same, all epochs on distorted images", 36),
        ("the same, 240 epochs of twice the batch", 35),
        ("the same, shift 0.8 instead of 2, elastic 1.0, all else a little less", 35),
        ("40 views, shift 2 again", 29),
        ("20 views, rotation 20°, scale 0.25, shear 0.2, shift 3, 40 epochs", 94, 0.854),
        ("the same, a share 0.1 degraded", 76, 0.954),
    ],
}

_NAMES = ("what", "validation_errors", "validation_corrupted")

# In the format of `Card.tried`.
TRIED = {network: [dict(zip(_NAMES, run, strict=False)) for run in runs] for network, runs in _RUNS.items()}
