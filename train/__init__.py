"""Train the two digit classifiers: data, architectures, recipes, training cards.

This is the bottom package: it also owns what every other package shares, the exception tree
(`train.common.errors`), the command-line conventions (`train.common.cli`) and atomic files (`train.common.files`).
Importing it loads neither TensorFlow nor Keras; only `train.trainer` and `train.models` do.
"""
