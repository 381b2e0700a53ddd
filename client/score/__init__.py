"""Batch scoring: the predictions for many images as one Parquet file, computed here or on a Ray cluster."""

import os

# Before NumPy is loaded. Each worker has a core: matrix products with more threads wait for each other. On a busy
# machine with two cores, that took two thirds of the time of photographs' preparation.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
