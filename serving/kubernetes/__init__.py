"""Kubernetes manifests: their sources, the rendered files, and `tfship kubernetes render`."""
