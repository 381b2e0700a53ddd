"""`python -m train`: train the digit networks.

python -m train                         both networks, on the first data set that is found
python -m train cnn --data mnist.npz    one of them, on this data
python -m train --force                 even where the weights are up to date
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from train import backend, cards, cli, data
from train.cards import Card
from train.errors import UsageError
from train.files import sweep
from train.recipe import RECIPES


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print a line per network, return the exit code."""
    parser = cli.parser(
        "python -m train", "Train the digit networks and write <name>.keras and <name>.card.json."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(RECIPES)} (both if none)"
    )
    parser.add_argument("--data", metavar="PATH", help="a Keras mnist.npz or a folder of IDX files")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="of the weights, the order and the augmentation")
    parser.add_argument("--epochs", type=int, metavar="N", help="exactly this many, instead of the recipe's")
    parser.add_argument("--force", action="store_true", help="train even if the weights are up to date")
    parser.add_argument("--json", action="store_true", help="print the cards as JSON on stdout")
    arguments = parser.parse_args(argv)
    names = list(dict.fromkeys(arguments.names)) or list(RECIPES)
    if unknown := sorted(set(names) - set(RECIPES)):
        raise UsageError(f"no network is called {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    if arguments.epochs is not None and arguments.epochs < 1:
        raise UsageError(f"--epochs {arguments.epochs}: expected 1 or more")
    if arguments.seed < 0 or arguments.seed >= 2**32:
        raise UsageError(f"--seed {arguments.seed}: expected 0 to {2**32 - 1}")

    source = data.find(arguments.data, say=cli.say)
    cli.say(f"data: {source.label}; {', '.join(str(path) for path in source.files)}; sha256 {source.sha256}")
    done: list[Card] = []
    # Now, and not after minutes of training, is the time to find out that this folder can't be written.
    arguments.models.mkdir(parents=True, exist_ok=True)
    sweep(arguments.models)
    digits = None
    for name in names:
        recipe = RECIPES[name]
        if arguments.epochs is not None:
            recipe = replace(recipe, epochs=arguments.epochs, min_steps=0)
        card = (
            None
            if arguments.force
            else cards.up_to_date(arguments.models, name, source, recipe, arguments.seed)
        )
        if card:
            cli.say(
                f"{name}: up to date (same data, recipe and seed; --force, or `make train FORCE=1`, trains again)"
            )
        else:
            if digits is None:
                digits = data.load(source)
                cli.say(f"data: {len(digits.x_train):,} training and {len(digits.x_test):,} test images")
            cli.say(f"{name}: training with seed {arguments.seed}")
            # TensorFlow takes seconds to load: not before there is something to train.
            backend.tensorflow()
            from train.fit import fit

            card = fit(name, recipe, digits, arguments.seed, arguments.models)
        done.append(card)
        if not arguments.json:
            print(_line(card, arguments.models), flush=True)
    if arguments.json:
        print(json.dumps([asdict(card) for card in done], indent=2))
    return 0


def _line(card: Card, folder: Path) -> str:
    accuracy = card.accuracy
    low, high = accuracy["interval95"]
    return (
        f"{card.model}: accuracy {accuracy['value']:.4f} (95 % interval {low:.4f} to {high:.4f}) on "
        f"{accuracy['images']:,} test images, {card.parameters:,} parameters, {card.epochs} epochs in "
        f"{card.seconds:.0f} s, {card.data['label']} → {folder / card.model}.keras"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
