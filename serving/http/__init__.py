"""TensorFlow Serving's REST API over HTTP/1.1."""
