"""Targets: model servers over REST and gRPC, and model files in this process."""
