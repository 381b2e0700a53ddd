"""Runtimes for exported models: LiteRT, TensorFlow, TensorFlow Lite Micro."""
