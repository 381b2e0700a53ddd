"""Ask a model about pictures: over REST, over gRPC, or from a model file in this process.

Nothing here loads TensorFlow, not REST, not gRPC (`serving.protos`), not TFLite (LiteRT), until a SavedModel or a
`.keras` file is asked for.
"""

__all__ = ["COMMAND"]

# As the person who calls it knows it: in the repository, or installed (`setup.py`).
COMMAND = "python client/predict.py" if __name__ == "client" else "tfship-client"
