"""How TensorFlow is imported: once, quickly, without output or packages that only wrappers of Keras need."""

import subprocess
import sys

SCRIPT = """
import gc, sys
import numpy
from tfship.train.common.tensorflow_loader import tensorflow
tf = tensorflow()
unused = {"matplotlib", "pandas", "sklearn"}
assert not unused & set(sys.modules), unused & set(sys.modules)
assert tensorflow() is tf
assert gc.isenabled() and gc.get_freeze_count() > 100_000
import keras
import matplotlib.pyplot, pandas, sklearn.metrics
assert sklearn.metrics.average_precision_score([0, 1], [0.1, 0.9]) == 1
assert keras.Sequential([keras.layers.Dense(2)])(numpy.ones((1, 3))).shape == (1, 2)
"""


def test_packages_that_are_not_used_can_be_imported_later() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
