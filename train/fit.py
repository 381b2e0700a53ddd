"""One training run: seeded data, the recipe, the test set looked at once, a card. Loads TensorFlow."""

import math
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from train import environment, stats
from train.cards import Card
from train.data import CLASSES, Digits, to_input
from train.errors import ResultError
from train.files import sha256, staged
from train.models import build
from train.progress import Progress
from train.recipe import Recipe

__all__ = ["fit"]


def fit(name: str, recipe: Recipe, digits: Digits, seed: int, folder: Path) -> Card:
    """Train network `name`, write `folder/name.keras` and its card, and return the card.

    The same seed, data, recipe and package versions give the same weights. Raises ResultError if the loss
    stops being a number; what was there before is then untouched.
    """
    start = time.perf_counter()
    # Sets Python's, NumPy's and the backend's generators. TensorFlow's operator determinism isn't asked for:
    # on a CPU these networks' weights come out the same to the bit without it, and it takes the cnn 1.6 times
    # as long.
    keras.utils.set_random_seed(seed)

    steps_per_epoch = max(1, len(digits.x_train) // recipe.batch_size)
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))
    total = epochs * steps_per_epoch
    model = build(name, recipe.dropout)
    model.compile(
        keras.optimizers.Adam(_schedule(recipe, total)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    with Progress(name, total, "steps") as progress:
        model.fit(
            _batches(digits, recipe, seed),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,  # the pipeline does it, seeded
            verbose=0,
            callbacks=[_Report(name, progress, epochs)],
        )
    seconds = time.perf_counter() - start

    probabilities = model.predict(to_input(digits.x_test), batch_size=1000, verbose=0)
    path = folder / f"{name}.keras"
    with staged(path) as temporary:
        model.save(temporary)
        card = Card(
            model=name,
            parameters=model.count_params(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            keras_sha256=sha256(temporary),
            data=digits.describe(),
            classes=list(CLASSES),
            recipe=asdict(recipe),
            seed=seed,
            epochs=epochs,
            steps=total,
            seconds=round(seconds, 1),
            accuracy=stats.accuracy(probabilities.argmax(1), digits.y_test),
            environment=environment.describe(),
        )
        # The card first: if the process dies between the two, the card names weights that aren't there,
        # which every reader notices by their hash; weights without a true card would pass for the old ones.
        card.write(folder)
    return card


def _schedule(recipe: Recipe, total: int) -> keras.optimizers.schedules.LearningRateSchedule:
    warmup = max(1, int(total * recipe.warmup))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.peak_learning_rate / 10,
        warmup_target=recipe.peak_learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, total - warmup),
        alpha=1e-3,
    )


def _batches(digits: Digits, recipe: Recipe, seed: int) -> tf.data.Dataset:
    batch_size = min(recipe.batch_size, len(digits.x_train))
    batches = (
        tf.data.Dataset.from_tensor_slices((to_input(digits.x_train), digits.y_train))
        .shuffle(len(digits.x_train), seed=seed)
        .batch(batch_size, drop_remainder=True)
    )
    if recipe.shift:
        reach = 2 * recipe.shift + 1

        def shift(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Move each image by whole pixels, so that no interpolation blurs it."""
            size = images.shape[1]
            border = [[0, 0], [recipe.shift] * 2, [recipe.shift] * 2, [0, 0]]
            padded = tf.pad(images, border)
            offsets = tf.random.uniform([batch_size, 2, 1], 0, reach, tf.int32) + tf.range(size)
            rows = tf.gather(padded, offsets[:, 0], axis=1, batch_dims=1)
            columns = tf.gather(tf.transpose(rows, [0, 2, 1, 3]), offsets[:, 1], axis=1, batch_dims=1)
            return tf.transpose(columns, [0, 2, 1, 3]), labels

        batches = batches.map(shift)
    # Two, not AUTOTUNE: on an endless data set that reads far ahead, and fit then waits for it to stop.
    return batches.repeat().prefetch(2)


class _Report(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the progress bar and ends a run whose loss is no number any more."""

    def __init__(self, name: str, progress: Progress, epochs: int) -> None:
        super().__init__()
        self._name, self._progress, self._epochs = name, progress, epochs
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        figures = logs or {}
        loss = float(figures["loss"])
        if not np.isfinite(loss):
            raise ResultError(
                f"{self._name}: the loss became {loss} in epoch {self._epoch}; lower the recipe's peak_learning_rate"
            )
        accuracy = float(figures["accuracy"])
        self._progress.advance(
            note=f"epoch {self._epoch}/{self._epochs}, loss {loss:.4f}, accuracy {accuracy:.4f}"
        )
