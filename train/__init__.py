"""Train the two digit classifiers: data, architectures, recipes, training cards.

This is the bottom package: it also owns what every other package shares, the exception tree
(`train.errors`), the command-line conventions (`train.cli`) and atomic files (`train.files`).
Importing it loads neither TensorFlow nor Keras; only `train.fit` and `train.models` do.
"""
