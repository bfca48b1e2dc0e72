from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import AugmentConfig, SegmentationDataConfig
from lesionkeras.ct.window import standardise_numpy, window_numpy
from lesionkeras.data import segmentation
from lesionkeras.data.leak import LEAK_PROTOCOLS
from lesionkeras.data.sampling import LEAK_WARNINGS
from lesionkeras.data.segmentation import (
    SegmentationSplit,
    open_segmentation_splits,
)
from lesionkeras.data.segmentation_batches import (
    make_segmentation_eval,
    make_segmentation_train,
)
from lesionkeras.data.slices import PreparedSlices
from lesionkeras.data.stacked import PackedMasks, Stacked
from lesionkeras.errors import DataError, RecipeError

SIDE = 16
DATA = SegmentationDataConfig(image_size_px=SIDE, window_hu=(0.0, 100.0), rotation_deg=20.0)
NONE = AugmentConfig(mode="none")
STILL = AugmentConfig(  # "online" with every magnitude 0
    brightness=0.0,
    gamma=(1.0, 1.0),
    noise_std=0.0,
    translate_fraction=0.0,
    flip_left_right=False,
    flip_up_down=False,
    scale=(1.0, 1.0),
    crop_size_px=0,
)
ONLINE = AugmentConfig(crop_size_px=0)
KEY = tf.constant([3, 5])


def pack(masks):
    pngs = [cv2.imencode(".png", mask)[1].ravel() for mask in masks]
    return PackedMasks([(np.concatenate(pngs), np.cumsum([0, *map(len, pngs)]))])


def make_slices(count=6):
    """Slice i is i + 1 HU everywhere, but for a lesion of 90 HU inside a liver of 60."""
    images = np.tile(np.arange(1, count + 1, dtype=np.int16)[:, None, None], (1, SIDE, SIDE))
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    masks[:, 3:13, 4:12] = 1
    masks[:, 5:8, 5:9] = 2
    images[masks == 1], images[masks == 2] = 60, 90
    numbers = np.arange(count)
    around = [np.clip(numbers + step, 0, count - 1) for step in (-1, 0, 1)]
    return PreparedSlices(
        slices_hu=Stacked([images]),
        masks=Stacked([masks]),
        own_masks=pack(masks),
        neighbours=np.stack(around, axis=1),
        patients=tuple(f"p{i // 2}" for i in numbers),
        volumes=tuple(f"v{i // 2}" for i in numbers),
        files=tuple(f"{i}.png" for i in numbers),
        numbers=numbers.astype(np.int32),
        spacing_mm=np.ones((count, 3), np.float32),
        size_px=np.full((count, 2), SIDE, np.int32),
        resized_px=np.full((count, 2), SIDE, np.int32),
        affines=np.tile(np.eye(4), (count, 1, 1)),
        source_codes=("LPS",) * count,
        has_liver=np.ones(count, bool),
        has_lesion=np.ones(count, bool),
        liver_hu=np.full(count, 60.0, np.float32),
    )


def make_ramp(spacing_mm, count=12):
    """One volume, slice i of 10 i HU in a window of 1000."""
    slices = make_slices(count)
    images = np.tile(np.arange(count, dtype=np.int16)[:, None, None] * 10, (1, SIDE, SIDE))
    return replace(
        slices,
        slices_hu=Stacked([images]),
        volumes=("v",) * count,
        spacing_mm=np.full((count, 3), spacing_mm, np.float32),
    )


def make_split(count=6):
    return SegmentationSplit(make_slices(count), np.arange(count))


def take(num_batches, data=DATA, augment=ONLINE, seed=0, split=None, **words):
    stream = make_segmentation_train(
        split or make_split(), data, augment, batch_size=2, seed=seed, **words
    )
    return list(stream.take(num_batches).as_numpy_iterator())


def are_same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("augment", [NONE, ONLINE, replace(ONLINE, crop_size_px=8)])
def test_seed_decides_the_batches_and_resuming_goes_on(augment):
    whole = take(6, augment=augment, seed=4)
    assert are_same(whole, take(6, augment=augment, seed=4))
    assert are_same(whole[2:], take(4, augment=augment, seed=4, first_example=4))
    assert not are_same(whole, take(6, augment=augment, seed=5))


def test_every_slice_once_a_pass_in_an_order_of_its_own():
    corner = [image[:, 0, 0, 1] * 100 for image, _ in take(12, augment=NONE)]
    numbers = np.round(np.concatenate(corner)).astype(int).reshape(4, 6)
    assert all(sorted(row) == [1, 2, 3, 4, 5, 6] for row in numbers.tolist())
    assert len(set(map(tuple, numbers))) == 4


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("crop_size_px", [0, 8])
def test_shapes_are_static(slices, crop_size_px):
    augment = replace(ONLINE, crop_size_px=crop_size_px)
    data, side = replace(DATA, slices=slices), crop_size_px or SIDE
    image, mask = make_segmentation_train(
        make_split(), data, augment, batch_size=2, seed=0
    ).element_spec
    assert image.shape == (2, side, side, slices) and image.dtype == tf.float32
    assert mask.shape == (2, side, side) and mask.dtype == tf.uint8


def test_evaluation_is_in_order_whole_and_unchanged():
    split = SegmentationSplit(make_slices(), np.array([4, 0, 5]))
    batches = list(make_segmentation_eval(split, DATA, batch_size=2).as_numpy_iterator())
    images, masks = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert [len(batch) for batch, _ in batches] == [2, 1] and masks.dtype == np.uint8
    for image, mask, row in zip(images, masks, split.rows, strict=True):
        assert np.array_equal(image, window_numpy(split.slices.read_image(row, 3), (0.0, 100.0)))
        assert np.array_equal(mask, split.slices.masks[row])
    assert np.round(100 * images[0, 0, 0]).tolist() == [4, 5, 6]  # previous, key, next


@pytest.mark.parametrize("slices", [1, 3])
def test_standardised_after_the_window(slices):
    data = replace(DATA, normalisation="standardise", slices=slices)
    split = make_split()
    ((image, _),) = make_segmentation_eval(split, data, batch_size=6).as_numpy_iterator()
    for row in range(6):
        image_unit = window_numpy(split.slices.read_image(row, slices), (0.0, 100.0))
        np.testing.assert_allclose(image[row], standardise_numpy(image_unit), atol=1e-5)
    trained = take(2, data=data)
    assert all(abs(batch.mean((1, 2, 3))).max() < 1e-5 for batch, _ in trained)


def test_copies_are_p1s_alone():
    with pytest.raises(RecipeError) as caught:
        take(1, augment=replace(ONLINE, mode="copies"))
    assert str(caught.value) == (
        "augment.mode does not fit segmentation: found 'copies', wanted 'none' or 'online'."
    )


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    from tfds_builders import open_builder

    return open_builder("liver_phantom", "tiny", tmp_path_factory.mktemp("phantom"), None, False)


SMALL = replace(DATA, image_size_px=32)


def test_builders_own_splits(phantom):
    splits = open_segmentation_splits([phantom], replace(SMALL, protocol="given"), seed=0)
    counts = {name: info.num_examples for name, info in phantom.info.splits.items()}
    assert (len(splits.train), len(splits.test)) == (counts["train"], counts["test"])
    assert splits.warning == "" and not set(splits.train.patients) & set(splits.test.patients)
    assert splits.train.describe()["patients"] == 6 and splits.test.describe()["patients"] == 3


def test_pooled_and_divided(phantom):
    total = sum(info.num_examples for info in phantom.info.splits.values())
    by_patient = open_segmentation_splits([phantom], SMALL, seed=0)
    assert len(by_patient.train) + len(by_patient.test) == total
    assert by_patient.test.describe()["patients"] == 2  # a fifth of 12
    assert by_patient.warning == ""
    by_slice = open_segmentation_splits([phantom], replace(SMALL, protocol="p5"), seed=0)
    assert len(by_slice.test) == round(0.2 * total)
    assert by_slice.warning == LEAK_WARNINGS["p5"]
    some = replace(SMALL, splits=("test",), held_out=(by_patient.test.patients[0],))
    with pytest.raises(DataError, match="Who is held out is not there"):
        open_segmentation_splits([phantom], replace(some, held_out=("nobody",)), seed=0)
    only_test = open_segmentation_splits([phantom], replace(some, held_out=()), seed=0)
    whole = len(only_test.train) + len(only_test.test)
    assert whole == phantom.info.splits["test"].num_examples


def test_named_patient_is_held_out(phantom):
    patient = open_segmentation_splits([phantom], SMALL, seed=0).train.patients[0]
    splits = open_segmentation_splits([phantom], replace(SMALL, held_out=(patient,)), seed=0)
    assert set(splits.test.patients) == {patient} and patient not in splits.train.patients


def test_p3_samples_what_is_trained_on_alone(monkeypatch):
    kinds = np.arange(60) % 3  # liver and lesion, liver alone, neither
    slices = replace(make_slices(60), has_liver=kinds < 2, has_lesion=kinds == 0)
    monkeypatch.setattr(segmentation, "prepare_slices", lambda *words: slices)
    data = replace(DATA, splits=("train",))
    plain = open_segmentation_splits(["a builder"], data, seed=0)
    sampled = open_segmentation_splits(["a builder"], replace(data, sampling="p3"), seed=0)
    assert np.array_equal(sampled.test.rows, plain.test.rows)
    count = min((kinds[plain.train.rows] == kind).sum() for kind in (0, 2))
    assert len(plain.train) == 48 and len(sampled.train) == 2 * count > 20
    counts = sampled.train.describe()
    assert counts["with_lesion"] == counts["with_liver"] == count
    assert set(sampled.train.rows) < set(plain.train.rows)


def test_two_data_sets_are_pooled(monkeypatch):
    second = replace(make_slices(4), patients=("q",) * 4, volumes=("w",) * 4)
    second.slices_hu.parts[0][:, SIDE // 2] += 7  # another scan
    parts = {"one": make_slices(6), "two": second}
    monkeypatch.setattr(segmentation, "prepare_slices", lambda builder, *words: parts[builder])
    data = replace(DATA, splits=("train",), held_out=("q", "p1"))
    splits = open_segmentation_splits(["one", "two"], data, seed=0)
    assert splits.train.patients == ["p0", "p0", "p2", "p2"]
    assert splits.test.patients == ["p1", "p1", *"qqqq"]
    ((image, _),) = make_segmentation_eval(splits.test, DATA, batch_size=6).as_numpy_iterator()
    assert np.round(100 * image[:, 0, 0, 1]).astype(int).tolist() == [3, 4, 1, 2, 3, 4]


@pytest.mark.parametrize("protocol", ["patient", "given"])
def test_a_scan_of_one_name_in_two_data_sets_is_refused(monkeypatch, protocol):
    """Their slices would be interleaved, as slices of one scan."""
    builders = [SimpleNamespace(info=SimpleNamespace(name=name)) for name in ("lits", "folder")]
    parts = [make_slices(6), replace(make_slices(4), volumes=("w", "w", "v2", "v2"))]
    monkeypatch.setattr(
        segmentation, "prepare_slices", lambda builder, *words: parts[builders.index(builder)]
    )
    data = replace(DATA, splits=("train", "test"), protocol=protocol)
    open_segmentation_splits(builders[:1], replace(data, protocol="patient"), seed=0)
    with pytest.raises(DataError) as caught:
        open_segmentation_splits(builders, data, seed=0)
    assert str(caught.value) == (
        "Two data sets have a scan of one name in data.name: found scan v2 in lits and in folder, "
        "wanted names of their own; rename the scan's files in one of them and prepare it again, "
        "or train on one of the two."
    )


@pytest.mark.parametrize("protocol", ["volume", "p5", "p3", "given"])
def test_names_are_held_out_by_patient_alone(protocol):
    data = replace(SMALL, protocol=protocol, held_out=("p1", "p2"))
    with pytest.raises(RecipeError) as caught:
        open_segmentation_splits([], data, seed=0)
    assert str(caught.value) == (
        "Patients are held out by name from a split by patient alone in data.held_out: found p1, "
        f"p2 with data.protocol={protocol}, wanted data.protocol=patient; leave out --split or "
        "--held-out."
    )


def test_splits_that_leak_test_the_same_slices(monkeypatch):
    slices = replace(
        make_slices(60),
        volumes=tuple(f"v{i // 10}" for i in range(60)),
        patients=tuple(f"p{i // 20}" for i in range(60)),
    )
    monkeypatch.setattr(segmentation, "prepare_slices", lambda *words: slices)
    data = replace(DATA, splits=("train",), held_out=("v3",))
    found = {
        protocol: open_segmentation_splits(["b"], replace(data, protocol=protocol), seed=0)
        for protocol in LEAK_PROTOCOLS
    }
    assert len({tuple(splits.test.rows) for splits in found.values()}) == 1
    assert [len(splits.train) for splits in found.values()] == [58, 50, 40]
    assert [bool(splits.warning) for splits in found.values()] == [True, True, False]
    assert set(found["leak-slices"].test.volumes) == {"v3"}
    with pytest.raises(RecipeError, match=r"A leak is measured on one scan.*found 0 names"):
        open_segmentation_splits(["b"], replace(data, protocol="leak-volumes", held_out=()), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("protocol", "p4"), ("sampling", "some"), ("normalisation", "zscore"), ("slices", 2)],
)
def test_unknown_words(field, value):
    with pytest.raises(RecipeError, match=f"data.{field} is unknown: found {value!r}, wanted one"):
        open_segmentation_splits([], replace(SMALL, **{field: value}), seed=0)


def test_lesions_are_repeated_up_to_a_share(monkeypatch):
    slices = replace(make_slices(60), has_lesion=np.arange(60) % 10 == 0)
    monkeypatch.setattr(segmentation, "prepare_slices", lambda *words: slices)
    data = replace(DATA, splits=("train",), sampling="lesion", lesion_share=0.4)
    splits = open_segmentation_splits(["a builder"], data, seed=0)
    rows, is_lesion = splits.train.rows, slices.has_lesion
    assert abs(is_lesion[rows].mean() - 0.4) < 0.01
    plain = open_segmentation_splits(["a builder"], replace(data, sampling="all"), seed=0)
    assert set(rows) == set(plain.train.rows) and len(rows) > len(plain.train.rows)
    assert splits.train.describe() == plain.train.describe()  # a slice is counted once
    assert np.array_equal(splits.test.rows, plain.test.rows)


@pytest.mark.parametrize("protocol", ["patient", "p5", "volume"])
def test_validation_is_taken_from_what_is_trained_on(monkeypatch, protocol):
    slices = make_slices(60)
    monkeypatch.setattr(segmentation, "prepare_slices", lambda *words: slices)
    data = replace(DATA, splits=("train",), protocol=protocol, validation_fraction=0.25)
    splits = open_segmentation_splits(["a builder"], data, seed=0)
    parts = [set(part.rows) for part in (splits.train, splits.validation, splits.test)]
    assert list(map(len, parts)) == [36, 12, 12] and len(set.union(*parts)) == 60
    patients = [set(part.patients) for part in (splits.train, splits.validation, splits.test)]
    assert (patients[0] & patients[1] != set()) == (protocol == "p5")
    assert list(splits.describe()) == ["train", "validation", "test"]
    without = open_segmentation_splits(["b"], replace(data, validation_fraction=0.0), seed=0)
    assert without.validation is None and list(without.describe()) == ["train", "test"]


def test_half_of_the_images_are_read_from_cranial():
    plain = take(20, augment=STILL, data=replace(DATA, rotation_deg=0.0))
    mixed = take(20, augment=STILL, data=replace(DATA, rotation_deg=0.0, reverse_slices=True))
    turned = 0
    for (image, mask), (other, other_mask) in zip(plain, mixed, strict=True):
        assert np.array_equal(mask, other_mask)
        for one, two in zip(image, other, strict=True):
            is_turned = not np.array_equal(one, two)
            np.testing.assert_array_equal(one[..., ::-1] if is_turned else one, two)
            turned += is_turned
    assert 8 <= turned <= 32


def test_scans_are_moved_to_the_level_of_their_liver():
    """In training by the masks; afterwards by what is found, and not at all if nothing is."""
    slices = replace(make_slices(), liver_hu=np.float32([60, 60, 55, 55, np.nan, np.nan]))
    split = SegmentationSplit(slices, np.arange(6))
    data = replace(DATA, rotation_deg=0.0, slices=1)
    levelled = replace(data, liver_hu=65.0)

    def read(data, **found):
        batches = make_segmentation_eval(split, data, batch_size=6, **found)
        ((image, _),) = batches
        return image.numpy()

    plain = read(data)
    added = np.float32([0.05, 0.05, 0.1, 0.1, 0, 0])[:, None, None, None]
    np.testing.assert_allclose(read(levelled), plain + added, atol=1e-6)
    np.testing.assert_allclose(
        read(levelled, liver_hu=80.0), np.maximum(plain - 0.15, 0), atol=1e-6
    )
    np.testing.assert_array_equal(read(levelled, liver_hu=np.nan), plain)
    np.testing.assert_array_equal(read(data, liver_hu=80.0), plain)
    trained = [image for image, _ in take(3, augment=STILL, data=levelled, split=split)]
    livers = {round(float(np.median(image[3:5, 4:12])), 2) for batch in trained for image in batch}
    assert livers == {0.6, 0.65, 0.7}


@pytest.mark.parametrize(("slice_mm", "step"), [(0.0, 10), (2.0, 4)])
def test_channels_lie_0_to_2_times_as_far_apart_in_a_share_of_the_images(slice_mm, step):
    slices = make_ramp(spacing_mm=5.0)
    split = SegmentationSplit(slices, np.arange(4, 8))
    window_hu = (0.0, 1000.0)
    data = replace(DATA, rotation_deg=0.0, window_hu=window_hu, slice_mm=slice_mm)
    plain = take(30, augment=STILL, data=data, split=split)
    varied = take(30, augment=STILL, data=replace(data, vary_slices=0.6), split=split)
    stretches = []
    for (image, mask), (other, other_mask) in zip(plain, varied, strict=True):
        assert np.array_equal(mask, other_mask)
        assert np.array_equal(image[..., 1], other[..., 1])
        np.testing.assert_allclose(np.diff(image), step / 1000, atol=1e-6)
        below, above = np.diff(other[:, 0, 0] * 1000, axis=-1).T
        np.testing.assert_allclose(below, above, atol=1.01)  # whole HU
        stretches += (below / step).tolist()
    stretched = np.array([stretch for stretch in stretches if abs(stretch - 1) > 0.05])
    assert 0.4 < len(stretched) / len(stretches) < 0.8
    assert stretched.min() < 0.4 and 1.6 < stretched.max() <= 2.1
    same = take(5, augment=NONE, data=replace(data, vary_slices=1.0), split=split)
    assert are_same(take(5, augment=NONE, data=data, split=split), same)
