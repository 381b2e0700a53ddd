"""Publication of versions: build, verification, the gate, the model store."""
