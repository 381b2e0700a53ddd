"""Digit data sets, batches with augmentation for training, and corrupted copies for tests."""
