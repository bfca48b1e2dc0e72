import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.ct import png16_fast
from lesionkeras.ct.window import window_numpy
from lesionkeras.data.decode import (
    UNTYPED,
    DecodeOnce,
    decode_example,
    decode_hu,
    decode_png16,
    make_stacks,
    stack_slices,
)
from lesionkeras.errors import DataError


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


def test_each_slice_is_decoded_once_and_the_oldest_is_forgotten():
    asked = []

    def decode(key):
        asked.append(key)
        return np.full((1, 2), int(key), np.int16)

    slices = DecodeOnce(decode, kept=3)
    assert slices.stack(b"1", b"2", b"3").tolist() == [[[1, 2, 3]] * 2]
    assert slices.stack(b"2", b"3", b"4").tolist() == [[[2, 3, 4]] * 2]
    assert slices.stack(b"", b"4", b"").tolist() == [[[4, 4, 4]] * 2]
    assert asked == [b"1", b"2", b"3", b"4"]
    slices.get(b"1")
    assert asked[4:] == [b"1"]


def test_threads_wait_for_a_slice_that_another_decodes():
    asked, go = [], threading.Event()

    def decode(key):
        asked.append(key)
        go.wait(20)
        return np.zeros((1, 1), np.int16)

    slices = DecodeOnce(decode)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(slices.stack, b"a", b"a", b"a") for _ in range(4)]
        go.set()
        assert all(future.result(20).shape == (1, 1, 3) for future in work)
    assert asked == [b"a"]


def test_what_cannot_be_decoded_is_an_error_each_time():
    slices = DecodeOnce()
    for _ in range(2):
        with pytest.raises(DataError, match=r"A file is not a PNG in a prepared record: found"):
            slices.get(b"GIF89a")


@pytest.mark.parametrize("isal", [True, False])
def test_hu_of_a_png_with_and_without_isal(monkeypatch, isal):
    if not isal:
        monkeypatch.setattr(png16_fast, "_import_isal", lambda: None)
    image_hu = np.random.default_rng(0).integers(-3024, 4000, (20, 30))
    found = decode_hu(to_png(image_hu), "a.png")
    assert found.dtype == np.int16 and np.array_equal(found, np.clip(image_hu, -1024, 3071))


def write_series(folder, count, shape=(6, 8)):
    for i in range(count):
        image_hu = np.random.default_rng(i).integers(-3024, 3072, shape)
        (folder / f"{i:03d}.png").write_bytes(to_png(image_hu))
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    return [
        (paths[i - 1] if i else None, path, paths[i + 1] if i + 1 < count else None)
        for i, path in enumerate(paths)
    ]


def test_batches_straight_from_files(tmp_path):
    files, window_hu = write_series(tmp_path, 5), (-160.0, 240.0)
    batches = list(make_stacks(files, window_hu, 2).as_numpy_iterator())
    assert [batch.shape for batch in batches] == [(2, 6, 8, 3), (2, 6, 8, 3), (1, 6, 8, 3)]
    for triple, image_unit in zip(files, np.concatenate(batches), strict=True):
        for path, channel in zip(triple, np.moveaxis(image_unit, -1, 0), strict=True):
            stored = cv2.imread(str(path or triple[1]), cv2.IMREAD_UNCHANGED)
            wanted = window_numpy(stored.astype(int) - 32768, window_hu)
            assert np.array_equal(channel, wanted)
    assert batches[0].min() == 0.0 and batches[0].max() == 1.0


def test_files_that_make_no_batch(tmp_path):
    files = write_series(tmp_path, 2)
    with pytest.raises(tf.errors.OpError, match=r"An image cannot be read in .*9\.png: found No"):
        list(make_stacks([(None, tmp_path / "9.png", None)], (0.0, 1.0), 1))
    (tmp_path / "001.png").write_bytes(to_png(make_slice(0)))
    alone = [(None, triple[1], None) for triple in files]
    with pytest.raises(
        tf.errors.OpError,
        match=r"Images of one batch differ in size in .*001\.png: found 3x5 px, wanted 6x8 px",
    ):
        list(make_stacks(alone, (0.0, 1.0), 2))
