import keras
import numpy as np
import pytest

from lesionkeras.boxes import compute_area, compute_map_size, make_anchors, num_anchors_per_cell
from lesionkeras.config import AnchorConfig

CONFIG = AnchorConfig(strides_px=(8, 32), size_factor=2.0, scales=(1.0, 1.5), ratios=(0.25, 1.0))


def test_first_cell_is_centred_half_a_stride_from_the_edge():
    # Scale 1: side 16; ratio .25 is height 8, width 32.  Scale 1.5: side 24; height 12, width 48.
    wanted = [[-12, 0, 20, 8], [-4, -4, 12, 12], [-20, -2, 28, 10], [-8, -8, 16, 16]]
    np.testing.assert_allclose(make_anchors(CONFIG, 64, 64)[:4], wanted, atol=1e-5)


def test_order_is_strides_then_rows_then_columns():
    anchors = make_anchors(CONFIG, 16, 40)  # maps of 2 x 5 and 1 x 2
    assert anchors.shape == ((2 * 5 + 1 * 2) * num_anchors_per_cell(CONFIG), 4)
    assert anchors.dtype == np.float32
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2)[:: num_anchors_per_cell(CONFIG)]
    fine = [[x, y] for y in (4, 12) for x in (4, 12, 20, 28, 36)]
    np.testing.assert_allclose(centres, [*fine, [16, 16], [48, 16]], atol=1e-5)


def test_ratios_keep_the_area_and_are_height_over_width():
    config = AnchorConfig(strides_px=(10,), size_factor=3.0, scales=(1.0,), ratios=(0.5, 1.0, 2.0))
    anchors = make_anchors(config, 10, 10)
    np.testing.assert_allclose(compute_area(anchors), 900.0, rtol=1e-5)
    size = anchors[:, 2:] - anchors[:, :2]
    np.testing.assert_allclose(size[:, 1] / size[:, 0], config.ratios, rtol=1e-5)


@pytest.mark.parametrize(("side", "stride", "cells"), [(224, 32, 7), (225, 32, 8), (5, 256, 1)])
def test_map_size_rounds_up(side, stride, cells):
    assert compute_map_size(side, stride) == cells


def test_one_read_only_array_is_shared():
    anchors = make_anchors(CONFIG, 64, 64)
    assert make_anchors(CONFIG, 64, 64) is anchors
    with pytest.raises(ValueError, match="read-only"):
        anchors[0, 0] = 1.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strides_px": (16, 8)}, "strides_px must ascend"),
        ({"strides_px": ()}, "strides_px must be positive"),
        ({"scales": (0.0,)}, "scales must be positive"),
        ({"ratios": (1.0, -2.0)}, "ratios must be positive"),
        ({"size_factor": 0.0}, "size_factor must be positive"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        make_anchors(AnchorConfig(**change), 64, 64)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="an image needs pixels, not 0 x 64"):
        make_anchors(CONFIG, 0, 64)


def _make_kerascv_anchors(config: AnchorConfig, dtype: str) -> np.ndarray:
    """KerasCV's anchors of a 72 x 300 image; its ratios are width / height, hence 1 / ratio."""
    from keras_cv.layers import AnchorGenerator

    generator = AnchorGenerator(
        bounding_box_format="xyxy",
        sizes=[config.size_factor * stride for stride in config.strides_px],
        scales=config.scales,
        aspect_ratios=[1 / ratio for ratio in config.ratios],
        strides=config.strides_px,
        dtype=dtype,
    )
    levels = generator(image_shape=(72, 300, 3))
    return np.concatenate([keras.ops.convert_to_numpy(levels[i]) for i in sorted(levels)])


@pytest.mark.parametrize("config", [CONFIG, AnchorConfig()], ids=["two levels", "default"])
def test_kerascv_agrees_in_float32(config):
    ours = make_anchors(config, 72, 300)
    np.testing.assert_allclose(_make_kerascv_anchors(config, "float32"), ours, atol=1e-4)


def test_kerascv_rounds_anchors_under_a_16_bit_policy():
    """The reason for our own generator: its anchors take the compute dtype."""
    ours = make_anchors(AnchorConfig(), 72, 300)
    theirs = _make_kerascv_anchors(AnchorConfig(), "mixed_bfloat16").astype(np.float32)
    is_inside = (ours.min(axis=1) >= 0) & (ours.max(axis=1) <= 300)
    assert 0.5 <= np.abs(theirs - ours)[is_inside].max() <= 1.0
