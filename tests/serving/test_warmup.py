from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from lesionkeras.serving.warmup import WARMUP_FILE, encode_field


def make_prediction_log_class() -> type:
    """The messages of tensorflow_serving/apis/*.proto that matter here, as protobuf types."""
    text, message = 9, 11
    schema = descriptor_pb2.FileDescriptorProto(name="log.proto", package="t", syntax="proto3")
    for name, fields in {
        "ModelSpec": [("name", 1, text, ""), ("signature_name", 3, text, "")],
        "Input": [("key", 1, text, ""), ("value", 2, 12, "")],
        "PredictRequest": [("model_spec", 1, message, ".t.ModelSpec"), ("inputs", 2, message, "")],
        "PredictLog": [("request", 1, message, ".t.PredictRequest")],
        "PredictionLog": [("predict_log", 6, message, ".t.PredictLog")],
    }.items():
        kind = schema.message_type.add(name=name)
        for field, number, type_number, type_name in fields:
            label = 3 if field == "inputs" else 1
            type_name = ".t.Input" if field == "inputs" else type_name
            kind.field.add(
                name=field, number=number, type=type_number, label=label, type_name=type_name
            )
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
