import cv2
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.data.decode import UNTYPED, decode_example, decode_png16, stack_slices


def to_png(image_hu):
    stored = (np.asarray(image_hu, np.int32) + 32768).astype(np.uint16)
    return cv2.imencode(".png", stored)[1].tobytes()


def make_slice(first_hu):
    """3 x 5 px, all different."""
    return first_hu + np.arange(15).reshape(3, 5)


def make_record(**lesion_extra):
    return {
        "png_previous": to_png(make_slice(-100)),
        "png_key": to_png(make_slice(40)),
        "png_next": b"",
        "lesions": {
            "bbox": np.float32([[1 / 3, 0.2, 1.0, 0.8], [0.0, 0.4, 2 / 3, 1.0]]),  # y1 x1 y2 x2
            "label": np.int64([0, 2]),
            **lesion_extra,
        },
        "spacing_mm": np.float32([5.0, 0.7, 0.9]),
        "patient": "000047",
        "file": "000047_10_01_051.png",
    }


@pytest.mark.parametrize("run", [decode_png16, tf.function(decode_png16)])
def test_stored_values_become_hu(run):
    image_hu = run(to_png([[-2000, -1024, -1023, 0], [1, 3071, 3072, 32767]]))
    assert image_hu.dtype == tf.int16
    assert image_hu.numpy().tolist() == [[-1024, -1024, -1023, 0], [1, 3071, 3071, 3071]]
    assert run(to_png([[-32768, 40]])).numpy().tolist() == [[-1024, 40]]


@pytest.mark.parametrize("missing", [(), ("previous",), ("next",), ("previous", "next")])
def test_missing_neighbours_are_the_key_slice(missing):
    pngs = {"previous": to_png(make_slice(-100)), "next": to_png(make_slice(200))}
    pngs |= dict.fromkeys(missing, b"")
    stack = stack_slices(pngs["previous"], to_png(make_slice(40)), pngs["next"])
    assert stack.shape == (3, 5, 3)
    before = 40 if "previous" in missing else -100
    after = 40 if "next" in missing else 200
    assert stack[2, 1].numpy().tolist() == [before + 11, 51, after + 11]


@pytest.mark.parametrize("run", [decode_example, tf.function(decode_example)])
def test_record_becomes_an_example(run):
    example = run(tf.nest.map_structure(tf.constant, make_record()))
    assert example["image_hu"].shape == (3, 5, 3)
    assert example["image_hu"][0, 4].numpy().tolist() == [-96, 44, 44]
    np.testing.assert_allclose(example["boxes"], [[1, 1, 4, 3], [2, 0, 5, 2]], atol=1e-6)
    assert example["classes"].dtype == tf.int32
    assert example["classes"].numpy().tolist() == [0, 2]
    np.testing.assert_allclose(example["spacing_mm"], [0.7, 0.9])  # y, x
    assert example["size_px"].numpy().tolist() == [3, 5]
    assert example["patient"] == b"000047" and example["file"] == b"000047_10_01_051.png"


def test_what_only_some_data_sets_say_of_a_lesion():
    plain = decode_example(make_record())
    assert plain["noisy"].numpy().tolist() == [False, False]
    assert plain["lesion_types"].numpy().tolist() == [UNTYPED, UNTYPED]
    extra = {"possibly_noisy": np.int64([1, 0]), "coarse_lesion_type": np.int64([4, -1])}
    told = decode_example(make_record(**extra))
    assert told["noisy"].numpy().tolist() == [True, False]
    assert told["lesion_types"].numpy().tolist() == [4, -1]
    assert told["noisy"].dtype == tf.bool and told["lesion_types"].dtype == tf.int32


def test_image_without_a_lesion():
    record = make_record()
    record["lesions"] = {"bbox": np.zeros((0, 4), np.float32), "label": np.zeros(0, np.int64)}
    example = decode_example(record)
    assert example["boxes"].shape == (0, 4)
    assert example["classes"].shape == example["noisy"].shape == (0,)
