"""Warm-up requests: TensorFlow Serving runs them when it loads a model, before the first user.

Without them the first request builds the kernels' state and is many times slower (TensorFlow
Serving, g3doc/saved_model_warmup.md: assets.extra/tf_serving_warmup_requests, a TFRecord file of
PredictionLog, 1,000 records at most).

The messages are written as protobuf wire format by hand, because the package that defines them,
tensorflow-serving-api, brings gRPC and replaces tensorflow-cpu by tensorflow.  Field numbers are
those of tensorflow_serving/apis/{prediction_log,predict,model}.proto; all are length-delimited.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
LENGTH_DELIMITED = 2  # protobuf wire type of strings and messages
PREDICTION_LOG_PREDICT_LOG = 6
PREDICT_LOG_REQUEST = 1
PREDICT_REQUEST_MODEL_SPEC = 1
PREDICT_REQUEST_INPUTS = 2
MODEL_SPEC_NAME = 1
MODEL_SPEC_SIGNATURE_NAME = 3
MAP_KEY = 1
MAP_VALUE = 2


def encode_field(number: int, payload: bytes) -> bytes:
    """Encodes one length-delimited protobuf field.

    Args:
        number: Field number, 1 to 15 (one byte of tag).
        payload: UTF-8 text, bytes or an encoded message.

    >>> encode_field(1, b"ab").hex(" "), encode_field(2, bytes(300))[:3].hex(" ")
    ('0a 02 61 62', '12 ac 02')
    """
    varint, rest = b"", len(payload)
    while rest > 127:
        varint += bytes([rest & 127 | 128])
        rest >>= 7
    return bytes([number << 3 | LENGTH_DELIMITED]) + varint + bytes([rest]) + payload


def encode_prediction_log(model_name: str, signature: str, inputs: dict[str, np.ndarray]) -> bytes:
    """Encodes one Predict request as a `tensorflow.serving.PredictionLog`.

    Args:
        model_name: Name under which the model is served.
        signature: Name of the SavedModel's signature.
        inputs: Input name -> array; arrays of bytes objects become strings.

    Returns:
        The serialized message.
    """
    import tensorflow as tf

    model_spec = encode_field(MODEL_SPEC_NAME, model_name.encode())
    model_spec += encode_field(MODEL_SPEC_SIGNATURE_NAME, signature.encode())
    request = encode_field(PREDICT_REQUEST_MODEL_SPEC, model_spec)
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        entry = encode_field(MAP_KEY, name.encode()) + encode_field(MAP_VALUE, tensor)
        request += encode_field(PREDICT_REQUEST_INPUTS, entry)
    return encode_field(PREDICTION_LOG_PREDICT_LOG, encode_field(PREDICT_LOG_REQUEST, request))


def write_warmup(
    export_dir: Path, model_name: str, requests: list[tuple[str, dict[str, np.ndarray]]]
) -> Path:
    """Writes the warm-up requests of an export.

    Args:
        export_dir: Version folder of a SavedModel.
        model_name: Name under which the model is served.
        requests: (signature, inputs) of each request, in the order in which they are run.

    Returns:
        The file written.
    """
    import tensorflow as tf

    path = export_dir / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            writer.write(encode_prediction_log(model_name, signature, inputs))
    return path
