"""How TensorFlow is imported: once, quickly, without output, threads or packages that only wrappers of Keras need."""

import subprocess
import sys

SCRIPT = """
import gc, os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy
from tfship.train.common.tensorflow_loader import preload, tensorflow
preload()
assert "tensorflow" in sys.modules
threads = os.listdir("/proc/self/task")
assert len(threads) == 1, [open(f"/proc/self/task/{each}/comm").read() for each in threads]
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
