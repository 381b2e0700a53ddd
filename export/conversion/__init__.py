"""Conversion of a model to a SavedModel and to TFLite files, with calibration and quantization."""
