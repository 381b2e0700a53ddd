"""One training run: seeded data, training by the recipe, one evaluation on the test set, a card. Loads TensorFlow."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train import distillation, plots
from tfship.train.callbacks import EpochCheckpoint, ProgressReport, tensorboard
from tfship.train.cards import Card
from tfship.train.common import cli, environment, statistics
from tfship.train.common.errors import DataError, ResultError, Unreachable
from tfship.train.common.files import sha256, staged
from tfship.train.common.progress import Progress
from tfship.train.data.corruptions import CORRUPTIONS, corrupted
from tfship.train.data.datasets import CLASSES, Digits, to_input
from tfship.train.data.input_pipeline import batches
from tfship.train.distillation import SoftTargets
from tfship.train.models import build, folded
from tfship.train.recipe import Augmentation, Recipe
from tfship.train.workers import ALONE, Workers

__all__ = ["digest", "fit", "prepare"]

# Large enough to hide the overhead of a call, small enough for any machine's memory.
_PREDICT_BATCH = 1000
# All but the weights in bfloat16: 1.9 times as fast for the cnn on a processor that supports it.
_MIXED_BFLOAT16 = "mixed_bfloat16"


def fit(
    name: str,
    recipe: Recipe,
    digits: Digits,
    seed: int,
    folder: Path,
    *,
    soft_targets: SoftTargets | None = None,
    workers: Workers = ALONE,
) -> Card:
    """Train network `name`, write `folder/name.keras`, its card and its figures, and return the card.

    The same seed, data, recipe and package versions give the same weights on the same machine. An interrupted run
    resumes from its checkpoint in `folder` and gives the same weights too. `soft_targets` come from the recipe's
    teachers (`prepare`). With several workers, only the chief writes files and uses the test images.

    Raises DataError for too few images, Unreachable if another worker has ended, and ResultError if the loss isn't
    finite or the network is no better than guessing. Existing files are then unchanged.
    """
    start = time.perf_counter()
    images, labels, held_out = _split(digits, recipe)
    # Seeds the generators of Python, NumPy and the backend. TensorFlow's operator determinism isn't enabled: on a
    # CPU these networks' weights are bit-identical without it, and the cnn would take 1.6 times as long.
    keras.utils.set_random_seed(seed)
    inputs, augmentation = images, recipe.augmentation
    targets = _one_hot(labels)
    if soft_targets and recipe.teachers:
        inputs, augmentation = soft_targets.views, Augmentation()  # the views are already distorted
        share = np.float32(recipe.teachers.weight)
        targets = share * soft_targets.probabilities + (1 - share) * np.tile(
            targets, (recipe.teachers.views, 1)
        )
    per_epoch = len(images) // recipe.batch_size
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / per_epoch))
    total = epochs * per_epoch

    precision = _MIXED_BFLOAT16 if recipe.bfloat16 and environment.has_bfloat16() else "float32"
    model = build(name, recipe.dropout, precision, training=True)
    model.compile(
        _Optimizer(recipe, total, workers),
        keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        # Not by name: Keras would create it in the first step, which TensorFlow would then trace again.
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=False,  # on a CPU, XLA's convolutions are half as fast as oneDNN's
    )
    card = Card(
        model=name,
        parameters=build(name, recipe.dropout).count_params(),
        data=digits.describe(),
        classes=list(CLASSES),
        recipe=asdict(recipe),
        seed=seed,
        precision=precision,
        workers=workers.count,
        teachers=soft_targets.teachers if soft_targets else [],
        epochs=epochs,
        steps=total,
        environment=environment.describe(),
    )
    run = EpochCheckpoint(model, folder, card, workers, start)
    if first := run.resume():
        cli.say(f"{name}: resumes from epoch {first + 1} of {epochs}")
    steps = range(first * per_epoch, total)
    try:
        with Progress(name, total, "steps", done=steps.start) as progress:
            if steps:
                model.fit(
                    batches(
                        inputs,
                        targets,
                        recipe.batch_size,
                        seed,
                        augmentation,
                        steps,
                        part=(workers.index, workers.count),
                        plain=range(total - int(total * recipe.plain), total),
                        originals=len(images),
                        degradation=recipe.degradation,
                    ),
                    initial_epoch=first,
                    epochs=epochs,
                    steps_per_epoch=per_epoch,
                    shuffle=False,  # the batches are already shuffled
                    verbose=0,
                    validation_data=(to_input(held_out[0]), _one_hot(held_out[1])),
                    validation_batch_size=_PREDICT_BATCH,
                    callbacks=[
                        ProgressReport(name, progress, epochs),
                        run,
                        *tensorboard(folder, name, first, workers),
                    ],
                )
        if recipe.average:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        final = _deployable(model, name, recipe, images)
        card = replace(
            card,
            weights_sha256=digest(final),
            seconds=round(run.progress.seconds, 1),
            history=run.progress.history,
            validation=_validate(name, final, *held_out),
        )
    except ResultError:
        run.clear()  # a resumed run would fail again
        raise
    except tf.errors.OpError as error:
        if workers.count == 1:
            raise
        raise Unreachable(
            f"{name}: another worker has ended ({error.message.splitlines()[0]}); start this command again on every "
            "worker: it resumes from the last complete epoch"
        ) from error
    if workers.chief:
        card = _publish(final, card, digits, held_out, folder)
        run.clear()
    return card


def digest(model: keras.Model) -> str:
    """Return the sha256 of the bytes of all weights of `model`, in order.

    The hash of a `.keras` file can't compare two runs, since the file contains the time when it was written.
    """
    weights = (np.ascontiguousarray(each).tobytes() for each in model.get_weights())
    return hashlib.sha256(b"".join(weights)).hexdigest()


def prepare(
    recipe: Recipe, digits: Digits, teachers: dict[Path, Card], workers: Workers = ALONE
) -> SoftTargets | None:
    """Return the soft targets of `teachers` (cards by the networks' folders); None if the recipe has no teachers."""
    if not recipe.teachers:
        return None
    images, _, _ = _split(digits, recipe)
    networks = {card.weights_sha256: _load(folder, card.model, workers) for folder, card in teachers.items()}
    return distillation.label(networks, recipe.teachers.views, recipe.augmentation, images)


def _split(
    digits: Digits, recipe: Recipe
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return the training images, their labels, and the pair (images, labels) held out for validation."""
    count = len(digits.x_train)
    kept = count - min(recipe.validation, count // 10)
    if kept == count or kept < recipe.batch_size:
        raise DataError(
            f"{digits.source.label}: {count} training images, {kept} without the tenth held out for validation; "
            f"expected at least a batch of {recipe.batch_size}; pass a larger data set with --data"
        )
    return digits.x_train[:kept], digits.y_train[:kept], (digits.x_train[kept:], digits.y_train[kept:])


def _one_hot(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def _load(folder: Path, name: str, workers: Workers) -> keras.Model:
    """Return the trained network `name` from the chief's folder, in the precision of fastest inference."""
    network = build(name, 0.0, _MIXED_BFLOAT16 if environment.has_bfloat16() else "float32")
    if workers.chief:
        trained = keras.models.load_model(folder / f"{name}.keras", compile=False)
        network.set_weights(trained.get_weights())
    network.set_weights(workers.from_chief(network.get_weights()))
    return network


class _Optimizer(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW (Loshchilov and Hutter 2019) with the recipe's settings, on gradients averaged over all workers."""

    def __init__(self, recipe: Recipe, total: int, workers: Workers) -> None:
        warmup = max(1, int(total * recipe.warmup))
        super().__init__(
            keras.optimizers.schedules.CosineDecay(
                initial_learning_rate=recipe.peak_learning_rate / 10,
                warmup_target=recipe.peak_learning_rate,
                warmup_steps=warmup,
                decay_steps=max(1, total - warmup),
                alpha=1e-3,
            ),
            name="adamw",
            weight_decay=recipe.weight_decay,
            use_ema=bool(recipe.average),
            ema_momentum=1 - 1 / max(1, recipe.average * total),
        )
        # Only matrices decay: biases and batch normalization's scales shouldn't be pulled towards zero.
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self._workers = workers

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Apply the mean of all workers' gradients."""
        super().apply(self._workers.mean(grads), trainable_variables)


def _deployable(model: keras.Model, name: str, recipe: Recipe, images: NDArray[np.uint8]) -> keras.Model:
    """Return the trained network for deployment: in float32, with batch statistics that match its weights.

    Batch normalization's moving averages come from distorted images with dropout, and from changing weights. They
    are computed again here, over all undistorted training `images`.
    """
    measured = build(name, dropout=0.0, training=True)
    measured.set_weights(model.get_weights())
    averaging = [each for each in measured.layers if isinstance(each, keras.layers.BatchNormalization)]
    if averaging:
        for number, batch in enumerate(_in_batches(images)):
            for layer in averaging:
                layer.momentum = number / (number + 1)  # gives the mean of all batches so far
            measured(batch, training=True)
    return folded(measured, recipe.dropout)


def _in_batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Yield the networks' input, made from all images in order."""
    for start in range(0, len(images), _PREDICT_BATCH):
        yield to_input(images[start : start + _PREDICT_BATCH])


def _predict(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Not `predict`: it sets up a pipeline on each call, which takes longer than a thousand predictions of the nn.
    return np.concatenate([model.predict_on_batch(batch) for batch in _in_batches(images)])


def _validate(
    name: str, model: keras.Model, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> dict[str, object]:
    """Return accuracy and loss on the held-out images. Raises ResultError if a constant prediction is as accurate."""
    probabilities = _predict(model, images)
    accuracy = statistics.accuracy(probabilities.argmax(1), labels)
    constant = np.bincount(labels).max() / len(labels)
    if not np.isfinite(probabilities).all() or accuracy["value"] <= constant:
        raise ResultError(
            f"{name}: diverged: accuracy {accuracy['value']:.1%} on {len(labels):,} held-out images; expected more "
            f"than the {constant:.1%} of a constant prediction; lower the recipe's peak_learning_rate"
        )
    likelihood = np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)
    return {**accuracy, "loss": float(-np.log(likelihood).mean())}


def _on_corrupted(
    what: str, model: keras.Model, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> dict[str, float]:
    """Return the share of correct predictions for each kind of corruption."""
    found = {}
    with Progress(what, len(CORRUPTIONS), "kinds") as progress:
        for kind, changed in corrupted(images):
            found[kind] = float(np.mean(_predict(model, changed).argmax(1) == labels))
            progress.advance()
    return found


def _publish(
    model: keras.Model,
    card: Card,
    digits: Digits,
    held_out: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    folder: Path,
) -> Card:
    """Evaluate on test and corrupted images, write figures, card and weights, and return the completed card."""
    on_validation = _on_corrupted(f"{card.model}: corrupted validation images", model, *held_out)
    card = replace(card, validation={**card.validation, "corruptions": on_validation})
    predicted = _predict(model, digits.x_test).argmax(1)
    corruptions = _on_corrupted(f"{card.model}: corrupted test images", model, digits.x_test, digits.y_test)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    accuracy = statistics.accuracy(predicted, digits.y_test)
    card = replace(card, created=created, accuracy=accuracy, corruptions=corruptions)
    plots.draw(card, digits.y_test, predicted, folder)
    with staged(folder / f"{card.model}.keras") as temporary:
        model.save(temporary)
        card = replace(card, keras_sha256=sha256(temporary))
        card.write(folder)
    return card
