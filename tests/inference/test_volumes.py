from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import InferenceConfig, SegmentationDataConfig, UNetConfig, UNetRecipe
from lesionkeras.ct.grid import find_grid, place_hu, place_mask
from lesionkeras.ct.volume import Source, make_affine
from lesionkeras.data.segmentation import SegmentationSplit
from lesionkeras.data.slices import PreparedSlices
from lesionkeras.data.stacked import PackedMasks, Stacked
from lesionkeras.inference.volumes import (
    SegmentedVolume,
    decode_probabilities,
    find_liver_hu,
    is_scattered,
    list_volumes,
    make_predictor,
    segment_volumes,
    to_stored,
)

PLAIN = InferenceConfig(batch_size=2, flips=False)
RECIPE = UNetRecipe(
    data=SegmentationDataConfig(image_size_px=64, pixel_mm=1.0, slices=1, window_hu=(0.0, 100.0)),
    inference=PLAIN,
)
SIZES = {"v1": (50, 70, 0.9, 0.6), "v2": (61, 47, 1.3, 1.7)}  # rows, columns, mm
PLACES = {name: make_affine((5.0, *sizes[2:])) for name, sizes in SIZES.items()}
PLACES["v1"][:3, 3] = -30.0, 20.0, 400.0  # LPS mm of the first voxel
HU = np.array([10, 50, 90], np.int16)  # of background, liver and tumour


def make_split():
    """Two volumes of three slices whose HU say the label, their slices mixed up."""
    images, masks, own, rows = [], [], [], []
    for name, (height, width, y_mm, x_mm) in SIZES.items():
        grid = find_grid((height, width), (y_mm, x_mm), 64, 1.0)
        for z in (2, 0, 1):
            mask = np.zeros((height, width), np.uint8)
            mask[20:38, 15:35], mask[22 : 28 + z, 18:30] = 1, 2
            own.append(mask)
            images.append(place_hu(HU[mask], grid))
            masks.append(place_mask(mask, grid))
            scale = np.array([1.0, *grid.scale])
            rows.append((name, z, np.array([5.0, y_mm, x_mm]) / scale, grid))
    pngs = [cv2.imencode(".png", mask)[1].ravel() for mask in own]
    slices = PreparedSlices(
        slices_hu=Stacked([np.stack(images)]),
        masks=Stacked([np.stack(masks)]),
        own_masks=PackedMasks([(np.concatenate(pngs), np.cumsum([0, *map(len, pngs)]))]),
        neighbours=np.repeat(np.arange(6)[:, None], 5, axis=1),
        patients=tuple(f"patient of {name}" for name, *_ in rows),
        volumes=tuple(name for name, *_ in rows),
        files=tuple(f"{name}/{z}" for name, z, *_ in rows),
        numbers=np.array([z for _, z, *_ in rows], np.int32),
        spacing_mm=np.array([spacing for *_, spacing, _ in rows], np.float32),
        size_px=np.array([grid.size_px for *_, grid in rows], np.int32),
        resized_px=np.array([grid.resized_px for *_, grid in rows], np.int32),
        affines=np.array([PLACES[name] for name, *_ in rows]),
        source_codes=("RAS",) * 3 + ("LPS",) * 3,
        has_liver=np.ones(6, bool),
        has_lesion=np.ones(6, bool),
        liver_hu=np.full(6, 100.0, np.float32),
    )
    return SegmentationSplit(slices, np.arange(6)), own


def read_labels(image, training=False):
    """A network that knows: logits of what the image's grey says."""
    greys = tf.constant(HU / 100.0, tf.float32)
    return -400.0 * tf.square(image - greys)


def test_volumes_come_back_whole_in_order_and_in_their_own_pixels():
    split, own = make_split()
    progress = []
    predict = make_predictor(read_labels, PLAIN, "tumour")
    volumes = list(segment_volumes(predict, split, RECIPE, lambda *at: progress.append(at)))
    assert [volume.name for volume in volumes] == ["v1", "v2"] and progress == [(3, 6), (6, 6)]
    for volume, first in zip(volumes, (0, 3), strict=True):
        height, width, y_mm, x_mm = SIZES[volume.name]
        assert volume.mask.shape == volume.truth.shape == (3, height, width)
        assert volume.mask.dtype == np.uint8 and volume.patient == f"patient of {volume.name}"
        np.testing.assert_allclose(volume.spacing_mm, (5.0, y_mm, x_mm), rtol=1e-6)
        assert ((volume.tumour_prob > 0.5) == (volume.mask == 2)).mean() > 0.99
        assert volume.tumour_prob[volume.mask == 2].max() > 0.99
        for z, row in enumerate((first + 1, first + 2, first)):
            assert volume.rows[z] == row and np.array_equal(volume.truth[z], own[row])
            for label in (1, 2):
                a, b = volume.mask[z] >= label, own[row] >= label
                assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9
            assert np.array_equal(volume.square_truths[z], split.slices.masks[row])
        assert (volume.square_masks == volume.square_truths).mean() > 0.97


def test_the_level_of_the_liver_is_what_the_network_finds_and_not_the_truth():
    """Livers of 50 HU are wanted at 70: greys are read there, and in the first look as they are."""
    split, _ = make_split()
    data = replace(RECIPE.data, liver_hu=70.0)
    recipe = replace(RECIPE, data=data)
    seen = []

    def predict(image):
        seen.append(float(np.median(image[image > 0.3])))
        greys = np.float32([0.1, 0.5, 0.9]) + (0.2 if seen[-1] > 0.6 else 0.0)
        logits = -400.0 * np.square(image - greys)
        return tf.nn.softmax(logits).numpy()

    volume = SegmentationSplit(split.slices, np.array([1, 2, 0]))
    assert find_liver_hu(predict, volume, recipe) == 50.0  # `slices.liver_hu` says 100
    assert [round(grey, 2) for grey in seen] == [0.5, 0.5, 0.7, 0.7]  # batches of 2 and 1, twice
    first, _ = segment_volumes(predict, split, recipe)
    assert (first.square_masks == first.square_truths).mean() > 0.97


def test_without_liver_there_is_no_level():
    split, _ = make_split()
    recipe = replace(RECIPE, data=replace(RECIPE.data, liver_hu=70.0))

    def predict(image):
        return np.tile(np.float32([1, 0, 0]), (*image.shape[:3], 1))

    assert np.isnan(find_liver_hu(predict, SegmentationSplit(split.slices, np.arange(3)), recipe))
    assert not any(volume.mask.any() for volume in segment_volumes(predict, split, recipe))


def test_a_volume_may_be_there_in_part_and_twice():
    split, _ = make_split()
    part = SegmentationSplit(split.slices, np.array([3, 0, 1, 0]))
    assert {k: v.tolist() for k, v in list_volumes(part).items()} == {"v1": [1, 0], "v2": [3]}
    predict = make_predictor(read_labels, PLAIN, "tumour")
    first, second = segment_volumes(predict, part, RECIPE)
    assert first.affine[:3, 3].tolist() == [-30.0, 20.0, 400.0]  # from slice 0
    assert second.affine[:3, 3].tolist() == [0.0, 0.0, 10.0]  # from slice 2, of 5 mm each
    assert (first.source.code, second.source.code) == ("RAS", "LPS")


def test_slices_are_a_volume_only_if_all_are_there():
    split, _ = make_split()
    slices = split.slices
    assert not is_scattered(split)
    assert not is_scattered(SegmentationSplit(slices, np.array([2, 0, 1, 1])))  # one volume whole
    assert is_scattered(SegmentationSplit(slices, np.array([0, 2, 3, 4, 5])))
    assert is_scattered(SegmentationSplit(slices, np.array([1, 2])))  # side by side, not all
    gap = replace(slices, numbers=np.array([3, 0, 1, 2, 0, 1], np.int32))
    assert is_scattered(SegmentationSplit(gap, np.arange(3)))


@pytest.mark.parametrize(
    ("code", "turn", "spacing"),
    [
        ("LPS", lambda a: a, (5.0, 2.0, 0.5)),
        ("RAS", lambda a: a[:, ::-1, ::-1], (5.0, 2.0, 0.5)),
        ("ASL", lambda a: np.transpose(a, (2, 0, 1))[:, :, ::-1], (0.5, 5.0, 2.0)),
    ],
)
def test_masks_as_their_file_stored_them(code, turn, spacing):
    truth = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    affine = make_affine((5.0, 2.0, 0.5))
    none = np.zeros(0)
    volume = SegmentedVolume(
        "v",
        "p",
        (5.0, 2.0, 0.5),
        affine,
        Source("nifti", code),
        none,
        truth + 100,
        none,
        truth,
        none,
        none,
    )
    found, mask, spacing_mm = to_stored(volume)
    assert np.array_equal(found, turn(truth)) and np.array_equal(mask, turn(truth) + 100)
    np.testing.assert_allclose(spacing_mm, spacing)


def count_from_the_corner(image, training=False):
    """Logits that no mirror image keeps: they grow with row and column."""
    shape = tf.shape(image)
    y = tf.cast(tf.range(shape[1]), tf.float32)[None, :, None, None]
    x = tf.cast(tf.range(shape[2]), tf.float32)[None, None, :, None]
    ramp = tf.sin(0.3 * y + 0.1 * x * x)
    return tf.concat([image, ramp * tf.ones_like(image), -ramp * image], axis=-1)


@pytest.mark.parametrize("axes", [[1], [2], [1, 2]])
def test_mirror_images_make_inference_equivariant(axes):
    image = np.random.default_rng(1).random((2, 6, 8, 1), np.float32)
    mirrored = np.flip(image, axes)
    all_four, two = replace(PLAIN, flips=True), replace(PLAIN, flips=True, flip_left_right=False)
    for inference, is_equal in ((all_four, True), (two, axes == [1]), (PLAIN, False)):
        predict = make_predictor(count_from_the_corner, inference, "tumour")
        first, second = predict(image), np.flip(predict(mirrored), axes)
        assert np.allclose(first, second, atol=1e-6) == is_equal
        np.testing.assert_allclose(first.sum(-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("left_right", "views"), [(True, 4), (False, 2)])
def test_mirror_images_are_four_or_those_that_keep_sides(left_right, views):
    seen = []

    def model(image, training=False):
        seen.append(image)
        return tf.concat([image, 0 * image, 0 * image], axis=-1)

    image = np.random.default_rng(1).random((1, 4, 6, 1), np.float32)
    mirrored = replace(PLAIN, flips=True, flip_left_right=left_right)
    with_flips = make_predictor(model, mirrored, "tumour")(image)
    assert len(seen) == views
    np.testing.assert_allclose(with_flips, make_predictor(model, PLAIN, "tumour")(image), rtol=1e-6)


@pytest.mark.parametrize(("target", "place"), [("tumour", 2), ("liver", 1)])
def test_a_binary_head_finds_its_target_alone(target, place):
    predict = make_predictor(lambda image, training: image, PLAIN, target)
    prob = predict(np.full((1, 2, 2, 1), np.log(3.0), np.float32))
    wanted = np.zeros(3)
    wanted[[0, place]] = 0.25, 0.75
    np.testing.assert_allclose(prob[0, 0, 0], wanted, rtol=1e-6)


def test_a_bias_favours_the_tumour():
    logits = tf.constant([[[[1.0, 0.0, 0.5]]]])
    for bias, label in ((0.0, 0), (0.6, 2)):
        inference = replace(PLAIN, tumour_bias=bias)
        prob = make_predictor(lambda image, training: image, inference, "")(logits)
        assert decode_probabilities(prob, 0.5, False)[0, 0, 0] == label


def test_probabilities_to_labels_by_hand():
    prob = np.float32([[0.4, 0.0, 0.6], [0.6, 0.0, 0.4], [0.3, 0.7, 0.0]])
    assert decode_probabilities(prob, 0.5, True).tolist() == [2, 0, 1]
    assert decode_probabilities(prob, 0.3, True).tolist() == [2, 2, 1]
    assert decode_probabilities(prob, 0.65, True).tolist() == [0, 0, 1]
    assert decode_probabilities(prob, 0.9, False).tolist() == [2, 0, 1]  # no threshold of three


def test_what_the_square_does_not_reach_is_background():
    split, _ = make_split()
    recipe = replace(RECIPE, model=UNetConfig(head="binary"))
    everywhere = lambda image: np.tile(np.float32([0, 0, 1]), (*image.shape[:3], 1))  # noqa: E731
    first, second = segment_volumes(everywhere, split, recipe)
    assert (first.mask == 2).all()  # 45 x 42 mm lie in the square of 64 mm
    rows, columns = np.flatnonzero(second.mask[0].any(1)), np.flatnonzero(second.mask[0].any(0))
    # 79 x 80 mm: of 61 rows of 1.3 mm and of 47 columns of 1.7 mm 64 mm are seen
    assert 48 <= len(rows) <= 50 and 37 <= len(columns) <= 38
    assert abs(rows.mean() - 30) <= 0.5 and abs(columns.mean() - 23) <= 0.5
