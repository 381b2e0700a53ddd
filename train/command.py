"""`tfship train`: train the digit networks.

tfship train                         both networks, as fast as possible, on the first data set found
tfship train cnn --data mnist.npz    one network, on this data
tfship train --recipe best           both, for the best accuracy
tfship train --recipe robust         both, for digits that aren't as clean as MNIST's
tfship train --recipe best --seeds 5 five runs of each; keep the best on the validation images
tfship train --force                 train even if the weights are up to date
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tfship.train import seed_selection
from tfship.train.cards import Card
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.common.files import sweep
from tfship.train.data import datasets
from tfship.train.recipe import NETWORKS, RECIPES
from tfship.train.training_plan import TrainingPlan


def main(argv: Sequence[str] | None = None) -> int:
    """Train the networks that `argv` names, print a line for each, and return the exit code."""
    parser = cli.parser(
        "tfship train",
        "Train the digit networks. Writes <name>.keras and <name>.card.json, figures of the learning curves and the "
        "confusion matrix, and logs/<name> for TensorBoard. An interrupted run resumes from its last complete epoch. "
        "With TF_CONFIG set as TensorFlow documents it, several hosts train together and worker 0 writes the files.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{' or '.join(NETWORKS)} (both if none is given)"
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default="fast",
        help="fast takes minutes; best, for accuracy, and robust, also for unclean images, up to an hour",
    )
    parser.add_argument("--data", metavar="PATH", help="a Keras mnist.npz or a folder of IDX files")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder to write to")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the weights, the order and the augmentation"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train with N seeds, starting at --seed, and keep the best",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="number of epochs, instead of the recipe's")
    parser.add_argument("--force", action="store_true", help="train even if the weights are up to date")
    parser.add_argument("--json", action="store_true", help="print the cards as JSON on stdout")
    arguments = parser.parse_args(argv)
    names = list(dict.fromkeys(arguments.names)) or list(NETWORKS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise UsageError(f"{', '.join(unknown)}: no such network; expected {' or '.join(NETWORKS)}")
    for flag in ("epochs", "seeds"):
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise UsageError(f"--{flag} {value}: expected 1 or more")
    if not 0 <= arguments.seed <= 2**32 - arguments.seeds:
        raise UsageError(f"--seed {arguments.seed}: expected 0 to {2**32 - arguments.seeds}")

    source = datasets.find(arguments.data, say=cli.say)
    digits = datasets.load(source)
    cli.say(
        f"data: {source.label}, {len(digits.x_train):,} training and {len(digits.x_test):,} test images, from "
        f"{', '.join(map(str, source.files))}; sha256 {digits.sha256}"
    )
    # Fails before minutes of training if this folder can't be written.
    arguments.models.mkdir(parents=True, exist_ok=True)
    sweep(arguments.models)
    plan = TrainingPlan(arguments.recipe, digits, arguments.models, arguments.epochs, force=arguments.force)
    done: list[Card] = []
    for name in names:
        if arguments.seeds == 1:
            card = plan.train(name, arguments.seed, arguments.models)
        else:
            each = range(arguments.seed, arguments.seed + arguments.seeds)
            folders = {seed: arguments.models / "seeds" / str(seed) for seed in each}
            cards = {folder: plan.train(name, seed, folder) for seed, folder in folders.items()}
            card = seed_selection.publish_best(cards, arguments.models)
        done.append(card)
        if not arguments.json:
            print(_line(card, arguments.models), flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    return 0


def _line(card: Card, folder: Path) -> str:
    if not card.accuracy:
        return f"{card.model}: trained by {card.workers} workers; worker 0 has the files; weights {card.weights_sha256}"
    accuracy = card.accuracy
    low, high = accuracy["interval95"]
    line = (
        f"{card.model}: accuracy {accuracy['value']:.4f} (95 % interval {low:.4f} to {high:.4f}) on "
        f"{accuracy['images']:,} test images, {card.parameters:,} parameters, {card.epochs} epochs in "
        f"{card.seconds:.0f} s, {card.data['label']} → {folder / card.model}.keras"
    )
    return f"{line}\n{card.model}: {seed_selection.summary(card)}" if card.seeds else line
