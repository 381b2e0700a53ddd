"""The usual client of a model server, as in tutorials: preprocessing by TensorFlow, requests by tensorflow-serving-api.

python -m tfship.benchmarks.studies.usual_client localhost:8500 client/samples/seven.png

Only for comparison with `tfship predict`: the image must be a PNG with dark ink on light paper that fills it.
"""

import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

address, path = sys.argv[1:]
pixels = tf.io.decode_png(tf.io.read_file(path), channels=1)
image = 1.0 - tf.image.resize(pixels, [28, 28], antialias=True) / 255.0

request = predict_pb2.PredictRequest()
request.model_spec.name = "cnn"
request.model_spec.signature_name = "serving_default"
request.inputs["image"].CopyFrom(tf.make_tensor_proto(image[tf.newaxis]))
with grpc.insecure_channel(address) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout=10.0)
scores = tf.make_ndarray(response.outputs["probabilities"])[0]
print(f"{scores.argmax()} ({scores.max():.1%})")  # noqa: T201
