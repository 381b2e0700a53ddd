"""Shared code of all packages: errors, command-line conventions, files, progress, statistics."""
