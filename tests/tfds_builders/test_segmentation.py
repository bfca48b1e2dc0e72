import threading

import numpy as np
import pytest

from lesionkeras.ct.png16 import decode_png16
from lesionkeras.ct.volume import Source, Volume
from tests.tfds_builders.made_scans import LESIONS, make_abdomen
from tfds_builders import segmentation
from tfds_builders.segmentation import (
    Scan,
    assign_splits,
    make_examples,
    make_slice_examples,
    slice_features,
    volume_features,
)


def make_scan(spacing_mm=(5.0, 2.0, 1.0), **kwargs):
    image, mask = make_abdomen(2, **kwargs)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing_mm
    affine[3, 3] = 1
    volume = Volume(image, affine, Source("nifti", "LAS"))
    return Scan("scan-2", "patient", volume, Volume(mask, affine), ("a: b", "c: d"))


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (20, (14, 3, 3)),
        (129, (91, 19, 19)),
    ],
)
def test_sizes_of_splits(count, wanted):
    splits = list(assign_splits(f"p{i}" for i in range(count)).values())
    assert tuple(splits.count(name) for name in ("train", "validation", "test")) == wanted


def test_splits_do_not_depend_on_order_and_repetition():
    names = [f"lits_{i:03d}" for i in range(30)]
    wanted = assign_splits(names)
    assert assign_splits(names[::-1] + names[:9]) == wanted
    assert assign_splits(names, seed=1) != wanted
    assert assign_splits([]) == {}


def test_boxes_below_three_mm_are_left_out():
    z = LESIONS[1][0]  # 2 px high, 1 px wide
    for spacing_mm, count in (((5.0, 1.5, 1.0), 1), ((5.0, 1.4, 1.0), 0), ((5.0, 1.0, 3.0), 1)):
        example = list(make_slice_examples(make_scan(spacing_mm)))[z]
        assert len(example["lesions"]) == count
        assert example["lesion_px"] == 2  # the mask keeps it


def test_every_slice_is_encoded_once(monkeypatch):
    calls = []
    encode = segmentation.encode_png16
    monkeypatch.setattr(segmentation, "encode_png16", lambda a: calls.append(1) or encode(a))
    scan = make_scan()
    examples = list(make_slice_examples(scan))
    assert len(calls) == len(examples) == len(scan.image.array)
    for z, example in enumerate(examples):
        stored = decode_png16(example["png_key"], "a")
        np.testing.assert_array_equal(stored.astype(int) - 32768, scan.image.array[z])
    assert examples[0]["png_previous"] == examples[-1]["png_next"] == b""


def test_a_scan_of_one_slice():
    scan = make_scan()
    image, mask = (Volume(v.array[7:8], v.affine, v.source) for v in (scan.image, scan.mask))
    (example,) = make_slice_examples(Scan("s", "p", image, mask, ()))
    assert not example["has_previous"] and not example["has_next"]


def test_stopping_early_leaves_no_thread_waiting():
    before = set(threading.enumerate())
    examples = make_slice_examples(make_scan())
    next(examples)
    examples.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)
        assert not thread.is_alive()


def test_examples_fit_their_features():
    scan = make_scan()
    for config, features in (("slices", slice_features()), ("volumes", volume_features())):
        for key, example in make_examples(scan, config):
            assert set(example) == set(features)
            features.encode_example(example)
            assert key.startswith("scan-2")
    for _, example in make_examples(scan, "slices"):
        assert np.array_equal(example["affine"], scan.image.affine)
        assert example["source_code"] == "LAS"  # of a NIfTI file, whose first axis is x
    (_, example) = next(iter(make_examples(scan, "volumes")))
    assert example["spacing_mm"].tolist() == [5.0, 2.0, 1.0]
    assert (example["source_code"], example["corrections"]) == ("LAS", "a: b; c: d")
