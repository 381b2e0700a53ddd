"""The embedded model server: TensorFlow Serving's REST and gRPC APIs on exported model directories.

`tfship serve --model_base_path=models/nn` starts it. A request passes through the modules in this
order: `rest` or `grpc_services`, `predict`, `models`, `export.runtimes.protocol`. `DIFFERENCES.md` lists where this
server deliberately differs from `tensorflow_model_server`, and what it refuses.
"""
