import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.ct.png16 import STORED_OFFSET_HU
from lesionkeras.errors import ExportError
from lesionkeras.serving.export import export_detector
from lesionkeras.serving.png import decode_png_graph

NAMES = ["boxes", "classes", "num_detections", "scores"]

LOAD_WITH_ONLY_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf

export_dir, in_file, out_file = sys.argv[1:]
image_hu = np.load(in_file)
signatures = tf.saved_model.load(export_dir).signatures
found = signatures["serving_default"](tf.constant(image_hu))
arrays = {"v2_" + name: value.numpy() for name, value in found.items()}
stored = (image_hu.astype(np.int32) + 32768).astype(np.uint16)
png = [[tf.io.encode_png(stack[..., i : i + 1]).numpy() for i in range(3)] for stack in stored]
found = signatures["serving_png"](tf.constant(png))
arrays |= {"png_" + name: value.numpy() for name, value in found.items()}
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], export_dir)
    signature = graph.signature_def["serving_default"]
    fetches = {"v1_" + name: info.name for name, info in signature.outputs.items()}
    arrays |= session.run(fetches, {signature.inputs["image_hu"].name: image_hu})
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"keras_cv", "lesionkeras"}, loaded
np.savez(out_file, **arrays)
"""


def run_python(*words: object) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-I", *map(str, words)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def assert_same(found: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert want["num_detections"].min() > 0 and np.ptp(want["scores"][:, 0]) > 0
    for name in NAMES:
        assert found[name].dtype == want[name].dtype
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=1e-4, err_msg=name)


def test_fresh_process_with_only_tensorflow_gives_the_same_boxes(
    exported: SimpleNamespace, python_detections: dict, tmp_path: Path
):
    np.save(tmp_path / "in.npy", exported.image_hu)
    script = tmp_path / "load.py"
    script.write_text(LOAD_WITH_ONLY_TENSORFLOW)
    run_python(script, exported.dir, tmp_path / "in.npy", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        for loader in ("v1", "v2", "png"):
            assert_same({name: arrays[f"{loader}_{name}"] for name in NAMES}, python_detections)


def test_runs_in_the_loader_of_tensorflow_serving(
    exported: SimpleNamespace, python_detections: dict, tmp_path: Path
):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((exported.dir / "saved_model.pb").read_bytes())
    signature = graph.meta_graphs[0].signature_def["serving_default"]
    outputs = [f"{name}={signature.outputs[name].name}" for name in NAMES]
    np.save(tmp_path / "in.npy", exported.image_hu)
    run_python(
        Path(__file__).with_name("run_with_c_api.py"),
        *(exported.dir, tmp_path / "in.npy", tmp_path / "out.npz"),
        *(signature.inputs["image_hu"].name, *outputs),
    )
    with np.load(tmp_path / "out.npz") as arrays:
        assert_same(dict(arrays), python_detections)


def test_replaces_an_earlier_export_and_leaves_nothing_beside(exported: SimpleNamespace):
    assert exported.dir.name == "1"
    assert [path.name for path in exported.dir.parent.iterdir()] == ["1"]
    assert not (exported.dir / "leftover").exists()


def test_a_batch_of_none_gives_outputs_of_no_rows(exported: SimpleNamespace):
    signatures = tf.saved_model.load(str(exported.dir)).signatures
    for found in (
        signatures["serving_default"](tf.zeros([0, 96, 128, 3], tf.int16)),
        signatures["serving_png"](tf.zeros([0, 3], tf.string)),
    ):
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        want = {"boxes": (0, 12, 4), "scores": (0, 12), "classes": (0, 12), "num_detections": (0,)}
        assert shapes == want


def encode_png(slice_hu: np.ndarray) -> bytes:
    stored = (slice_hu.astype(np.int32) + STORED_OFFSET_HU).astype(np.uint16)
    return tf.io.encode_png(stored[..., None]).numpy()


def test_png_signature_equals_hu_signature(exported: SimpleNamespace):
    signatures = tf.saved_model.load(str(exported.dir)).signatures
    image_hu = exported.image_hu.copy()
    png = [[encode_png(image[..., i]) for i in range(3)] for image in image_hu]
    png[0][0] = png[1][2] = b""  # a missing neighbour is the key slice
    image_hu[0, ..., 0] = image_hu[0, ..., 1]
    image_hu[1, ..., 2] = image_hu[1, ..., 1]
    want = signatures["serving_default"](image_hu=tf.constant(image_hu))
    found = signatures["serving_png"](png=tf.constant(png))
    for name in NAMES:
        np.testing.assert_array_equal(found[name], want[name], err_msg=name)


def test_png_decodes_to_the_stored_values_slice_by_slice():
    image_hu = np.array([[[-1024, 0, 3071], [5, -7, 40]]], np.int16)
    png = tf.constant([[encode_png(image_hu[..., i]) for i in range(3)]])
    np.testing.assert_array_equal(decode_png_graph(png), image_hu[None])
    np.testing.assert_array_equal(decode_png_graph(png[:, 1:2]), image_hu[None, ..., 1:2])
    assert decode_png_graph(png[:0]).shape == (0, 1, 1, 3)


def test_scanner_padding_decodes_to_air():
    png = tf.constant([[encode_png(np.array([[-3024, 5]], np.int16))]])
    np.testing.assert_array_equal(decode_png_graph(png)[0, ..., 0], [[-1024, 5]])


@pytest.mark.parametrize(
    "key",
    [
        tf.io.encode_png(np.zeros((4, 4, 1), np.uint8)).numpy(),
        tf.io.encode_png(np.zeros((4, 4, 3), np.uint16)).numpy(),
        b"",
        b"\x89PNG",
    ],
    ids=["8 bit", "16-bit RGB", "no key slice", "truncated"],
)
def test_png_of_another_kind_is_refused_eagerly_and_in_a_graph(key: bytes):
    png = tf.constant([[b"", key, b""]])
    for decode in (decode_png_graph, tf.function(decode_png_graph)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be a 16-bit grey PNG"):
            decode(png)


def test_labels_and_warmup_images_that_do_not_fit_are_named(
    exported: SimpleNamespace, tmp_path: Path
):
    given = {"model": exported.model, "out_dir": tmp_path / "export", "operating_threshold": 0.5}
    with pytest.raises(ExportError, match="labels: found 1 names, wanted 2, one a lesion class"):
        export_detector(recipe=exported.recipe, warmup_hu=exported.image_hu, **given)
    one_class = dataclasses.replace(
        exported.recipe, model=dataclasses.replace(exported.recipe.model, num_classes=1)
    )
    with pytest.raises(ExportError, match=r"found float32 \[96, 128, 3\], wanted int16 \[B, H"):
        export_detector(recipe=one_class, warmup_hu=np.zeros((96, 128, 3), np.float32), **given)
    assert not (tmp_path / "export").exists()


def test_pixels_of_one_size_are_made_inside_the_export(exported: SimpleNamespace, tmp_path: Path):
    """Two spacings in a batch: each image as evaluation would place it, boxes in its own pixels."""
    from lesionkeras.ct.grid import find_grid, place_hu
    from lesionkeras.ct.window import window_numpy

    data = dataclasses.replace(exported.recipe.data, pixel_mm=1.5)
    recipe = dataclasses.replace(exported.recipe, data=data)
    export_dir = export_detector(
        exported.model,
        recipe,
        tmp_path / "export",
        operating_threshold=0.5,
        warmup_hu=exported.image_hu,
        warmup_spacing_mm=(0.8, 0.8),
        labels=exported.labels,
    )
    spacing_mm = np.float32([[0.8, 0.7], [1.3, 1.1]])  # smaller than the square, and larger
    signatures = tf.saved_model.load(str(export_dir)).signatures
    words = {"spacing_mm": tf.constant(spacing_mm)}
    found = signatures["serving_default"](image_hu=tf.constant(exported.image_hu), **words)
    for i, (image_hu, spacing) in enumerate(zip(exported.image_hu, spacing_mm, strict=True)):
        grid = find_grid((96, 128), tuple(spacing.tolist()), 64, 1.5)
        square = np.stack([place_hu(image_hu[..., c], grid) for c in range(3)], axis=-1)
        wanted = exported.model.detect(window_numpy(square[None], data.window_hu))
        count = int(wanted["num_detections"][0])
        assert count > 0 and int(found["num_detections"][i]) == count
        np.testing.assert_allclose(found["scores"][i], wanted["scores"][0], atol=1e-5)
        shift, scale = np.tile(grid.shift_px[::-1], 2), np.tile(grid.scale[::-1], 2)
        boxes = (np.asarray(wanted["boxes"][0])[:count] - shift) / scale
        boxes = boxes.clip(0, [128, 96, 128, 96])  # the square reaches beyond the image
        np.testing.assert_allclose(found["boxes"][i][:count], boxes, atol=1e-3)
        assert not np.any(found["boxes"][i][count:])
    png = [[encode_png(image[..., i]) for i in range(3)] for image in exported.image_hu]
    again = signatures["serving_png"](png=tf.constant(png), **words)
    np.testing.assert_array_equal(again["boxes"], found["boxes"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="spacing_mm must be millimetres"):
        signatures["serving_default"](
            image_hu=tf.constant(exported.image_hu), spacing_mm=tf.zeros([2, 2])
        )
