"""Ask a model about pictures: over REST, over gRPC, or from a model file in this process.

Nothing here loads TensorFlow, not REST, not gRPC (`serving.protos`), not TFLite (LiteRT), until a SavedModel or a
`.keras` file is asked for.
"""
