"""Runtimes that run exported models: LiteRT, TensorFlow, TensorFlow Lite Micro."""
