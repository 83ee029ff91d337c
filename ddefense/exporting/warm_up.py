"""Warm-up requests: what TF Serving sends a version before it serves it."""

import pathlib
from collections.abc import Mapping

import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from ddefense.serving.runtime import WARM_UP


def write(directory: pathlib.Path, batches: Mapping[str, Mapping[str, list[tf.Tensor]]]) -> None:
    """Writes requests to a version's `assets.extra/tf_serving_warmup_requests`.

    TF Serving replays them when it loads the version, so that no client waits for what the runtime
    prepares at the first request of each signature. It does not serve a version that refuses one.

    Args:
        directory: of the version.
        batches: for each signature and input the batches to send, one request each.
    """
    path = directory / WARM_UP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in batches.items():
            for name, tensors in inputs.items():
                for tensor in tensors:
                    request = predict_pb2.PredictRequest(
                        # TF Serving fills in the model's name, which may change.
                        model_spec=model_pb2.ModelSpec(signature_name=signature),
                        inputs={name: tf.make_tensor_proto(tensor)},
                    )
                    log = prediction_log_pb2.PredictionLog(
                        predict_log=prediction_log_pb2.PredictLog(request=request)
                    )
                    writer.write(log.SerializeToString())
