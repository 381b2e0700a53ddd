"""The input contract, and preprocessing inside a TensorFlow graph."""
