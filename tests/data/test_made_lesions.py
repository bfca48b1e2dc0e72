import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import SegmentationDataConfig
from lesionkeras.data.made_lesions import (
    BRIGHT_SHARE,
    LEAST_LIVER_PX,
    find_lesion_maker,
    make_lesions,
)

SIDE, LIVER_UNIT = 96, 0.6
IMAGE = np.full((SIDE, SIDE, 5), 0.1, np.float32)
IMAGE[8:88, 10:80] = LIVER_UNIT
MASK = np.zeros((SIDE, SIDE), np.uint8)
MASK[8:88, 10:80] = 1
MASK[20:24, 20:24] = 2  # one that is there


def make(number, image=IMAGE, mask=MASK):
    return make_lesions(image, mask, np.array([3, number], np.int32), 1.25, 300.0)


def test_lesions_are_made_in_liver_alone_and_nothing_is_taken_away():
    sizes = []
    for number in range(60):
        image, mask = make(number)
        assert image.dtype == np.float32 and mask.dtype == np.uint8
        assert ((mask == 0) == (MASK == 0)).all() and (mask[MASK == 2] == 2).all()
        assert image.min() >= 0 and image.max() <= 1
        far = image[:, 83:] - IMAGE[:, 83:]  # three pixels from the liver
        assert not far.any()
        sizes.append(int((mask == 2).sum()) - 16)
    assert min(sizes) >= 0 and 40 < np.median(sizes) < 1200 and max(sizes) > 400
    assert (IMAGE[8:88, 10:80] == np.float32(LIVER_UNIT)).all()  # what was given stays


def test_most_are_darker_by_as_much_as_metastases_are():
    changes_hu = []
    for number in range(200):
        image, mask = make(number)
        made = (mask == 2) & (MASK == 1)
        if made.sum() > 30:
            changes_hu.append(300 * float((image[..., 2] - IMAGE[..., 2])[made].mean()))
    changes_hu = np.array(changes_hu)
    assert len(changes_hu) > 150 and changes_hu.min() > -70 and changes_hu.max() < 45
    assert np.median(changes_hu) < -15
    assert BRIGHT_SHARE / 4 < (changes_hu > 0).mean() < 4 * BRIGHT_SHARE


def test_a_ball_is_smaller_in_the_slices_beside_its_middle():
    extents = np.zeros(5)
    for number in range(100):
        image, _ = make(number)
        extents += (np.abs(image - IMAGE) > 0.03).sum((0, 1))
    assert extents[2] > extents[1] > extents[0] > 0 and extents[2] > extents[3] > extents[4] > 0


def test_the_key_decides_and_little_liver_is_left_alone():
    for one, other in zip(make(5), make(5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(make(5)[0] != make(6)[0])
    mask = np.zeros_like(MASK)
    mask.ravel()[: LEAST_LIVER_PX - 1] = 1
    image, same = make(5, mask=mask)
    assert image is IMAGE and same is mask


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_images_gets_them(share):
    data = SegmentationDataConfig(
        made_lesions=share, pixel_mm=1.25, window_hu=(-100.0, 200.0), image_size_px=SIDE
    )
    add = find_lesion_maker(data)
    if not share:
        assert add is None
        return
    changed = 0
    run = tf.function(add)
    for number in range(60):
        key = tf.constant([1, number])
        image, mask = run(tf.constant(IMAGE), tf.constant(MASK), key)
        assert image.shape == IMAGE.shape and mask.shape == MASK.shape
        for graph, eager in zip((image, mask), add(IMAGE, MASK, key), strict=True):
            np.testing.assert_array_equal(graph, eager)
        changed += bool(np.any(image.numpy() != IMAGE))
    assert changed == 60 if share == 1 else 18 <= changed <= 42
