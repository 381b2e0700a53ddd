"""Ask a model about pictures: over REST, over gRPC, or from a TFLite file in this process.

Nothing here loads TensorFlow: not the REST path, not gRPC (`serving.protos`), not the local one (LiteRT).
"""

__all__ = ["COMMAND"]

# As the person who calls it knows it: in the repository, or installed (`setup.py`).
COMMAND = "python client/predict.py" if __name__ == "client" else "tfship-client"
