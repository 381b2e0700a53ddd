"""TensorFlow Serving's protocol messages, tensors and status codes, without TensorFlow."""
