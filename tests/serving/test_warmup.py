from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from lesionkeras.serving.warmup import WARMUP_FILE, encode_field

# Field numbers of tensorflow_serving/apis/{model,predict,prediction_log}.proto (2.21.0), written
# down a second time; a map is a repeated pair on the wire, and a message looks like bytes.
FIELDS = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "Input": {"key": (1, "string"), "value": (2, "bytes")},
    "PredictRequest": {"model_spec": (1, ".t.ModelSpec"), "inputs": (2, ".t.Input")},
    "PredictLog": {"request": (1, ".t.PredictRequest")},
    "PredictionLog": {"predict_log": (6, ".t.PredictLog")},
}
FIELD_TYPES = {"string": 9, "bytes": 12, "message": 11}  # descriptor.proto, FieldDescriptorProto


def make_prediction_log_class() -> Any:
    schema = descriptor_pb2.FileDescriptorProto(name="log.proto", package="t", syntax="proto3")
    for name, fields in FIELDS.items():
        message = schema.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, json_name=field_name)
            field.label = 3 if field_name == "inputs" else 1  # repeated, optional
            field.type = FIELD_TYPES.get(kind, FIELD_TYPES["message"])
            if kind.startswith("."):
                field.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(schema)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.PredictionLog"))


def test_lengths_are_varints():
    assert encode_field(2, b"x" * 127)[:2] == bytes([0x12, 127])
    assert encode_field(6, b"x" * 128)[:3] == bytes([0x32, 0x80, 0x01])
    assert encode_field(1, b"x" * 70000)[:4] == bytes([0x0A, 0xF0, 0xA2, 0x04])


def test_warmup_records_parse_and_run(exported: SimpleNamespace):
    kind = make_prediction_log_class()
    records = list(tf.data.TFRecordDataset(str(exported.dir / WARMUP_FILE)).as_numpy_iterator())
    signatures = tf.saved_model.load(str(exported.dir)).signatures
    seen = []
    for record in records:
        request = kind.FromString(record).predict_log.request
        assert request.model_spec.name == "tiny"
        inputs = {
            item.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(item.value))
            for item in request.inputs
        }
        seen.append((request.model_spec.signature_name, inputs))
        found = signatures[request.model_spec.signature_name](
            **{name: tf.constant(array) for name, array in inputs.items()}
        )
        assert found["num_detections"].numpy().min() > 0
    assert [name for name, _ in seen] == ["serving_default", "serving_default", "serving_png"]
    np.testing.assert_array_equal(seen[0][1]["image_hu"], exported.image_hu[:1])
    np.testing.assert_array_equal(seen[1][1]["image_hu"], exported.image_hu)
    assert seen[2][1]["png"].shape == (1, 3)
