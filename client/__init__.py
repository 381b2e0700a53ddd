"""Ask a model about pictures: over REST, over gRPC, or from a TFLite file in this process.

Nothing here loads TensorFlow: not the REST path, not gRPC (`serving.protos`), not the local one (LiteRT).
"""
