"""Batch scoring: the predictions for many images as one Parquet file, computed here or on a Ray cluster."""
