"""Metrics, and the text format in which Prometheus reads them."""
