"""The input contract, and preprocessing in a TensorFlow graph."""
