"""Versions in object storage and in container images."""
