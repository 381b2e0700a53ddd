"""Train the two digit classifiers: data, architectures, recipes, training cards.

All other packages depend on this one. It also holds their shared code: the exception tree (`train.common.errors`),
the command-line conventions (`train.common.cli`) and atomic files (`train.common.files`). Importing `train` loads
neither TensorFlow nor Keras; only `train.trainer` and `train.models` do.
"""
