import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import SegmentationLossConfig
from lesionkeras.errors import RecipeError
from lesionkeras.segmentation_losses import segmentation_loss

NOTHING = SegmentationLossConfig(dice_weight=0.0, cross_entropy_weight=0.0)
DICE = replace(NOTHING, dice_weight=1.0, smooth_px=0.5)
TVERSKY = replace(NOTHING, tversky_weight=1.0, smooth_px=0.5)
CROSS_ENTROPY = replace(NOTHING, cross_entropy_weight=1.0)
FOCAL = replace(NOTHING, focal_weight=1.0)
EVERYTHING = SegmentationLossConfig(
    dice_weight=0.7,
    tversky_weight=1.1,
    cross_entropy_weight=0.4,
    focal_weight=0.9,
    tversky_exponent=0.75,
    focal_gamma=1.5,
    smooth_px=0.3,
)


def make_binary():
    """Probabilities .9 .2 / .6 .1 of a tumour; the mask has it in the first and the last."""
    prob = np.array([[[0.9, 0.2], [0.6, 0.1]]])
    logits = np.log(prob / (1 - prob))[..., None].astype(np.float32)
    return logits, np.array([[[2, 1], [0, 2]]], np.uint8)


def make_three():
    """Two pixels: of a liver with .3, of a tumour with .8."""
    prob = np.array([[[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]])
    return np.log(prob).astype(np.float32) + 3.0, np.array([[[1, 2]]], np.uint8)


def compute(case, config):
    loss = segmentation_loss(*case, config)
    assert loss.dtype == tf.float32 and loss.shape == ()
    return float(loss)


def log_mean(*probabilities):
    return -sum(map(math.log, probabilities)) / len(probabilities)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # Tumour: TP .9 + .1, FP .2 + .6, FN .1 + .9; half a pixel above and below.
        (DICE, 1 - 1.5 / (1.0 + 0.5 * 0.8 + 0.5 * 1.0 + 0.5)),
        (TVERSKY, 1 - 1.5 / (1.0 + 0.7 * 0.8 + 0.3 * 1.0 + 0.5)),
        (replace(TVERSKY, tversky_exponent=0.75), (1 - 1.5 / 2.36) ** 0.75),
        (
            replace(TVERSKY, tversky_alpha=0.2, tversky_beta=0.9),
            1 - 1.5 / (1.0 + 0.2 * 0.8 + 0.9 * 1.0 + 0.5),
        ),
        (CROSS_ENTROPY, log_mean(0.9, 0.8, 0.4, 0.1)),
        (
            replace(CROSS_ENTROPY, class_weights=(1.0, 3.0)),
            -(3 * math.log(0.09) + math.log(0.32)) / 8,
        ),
        (
            FOCAL,
            -sum((1 - p) ** 2 * math.log(p) for p in (0.9, 0.8, 0.4, 0.1)) / 4,
        ),
        # Liver: the second pixel too.  TP .9 + .2 + .1, FP .6, FN .1 + .8 + .9
        (replace(DICE, target="liver"), 1 - 1.7 / (1.2 + 0.5 * 0.6 + 0.5 * 1.8 + 0.5)),
        (replace(CROSS_ENTROPY, target="liver"), log_mean(0.9, 0.2, 0.4, 0.1)),
    ],
)
def test_binary_by_hand(config, wanted):
    assert compute(make_binary(), config) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # Liver alone: TP .3, FP .1, FN .7; tumour: TP .8, FP .2, FN .2.
        (DICE, 1 - (0.8 / (0.3 + 0.4 + 0.5) + 1.3 / (0.8 + 0.2 + 0.5)) / 2),
        (TVERSKY, 1 - (0.8 / (0.3 + 0.07 + 0.21 + 0.5) + 1.3 / (0.8 + 0.14 + 0.06 + 0.5)) / 2),
        # Liver with its tumour: TP .5 + .9, FN .5 + .1.
        (
            replace(DICE, overlap_of="regions"),
            1 - (1.9 / (1.4 + 0.3 + 0.5) + 1.3 / (0.8 + 0.2 + 0.5)) / 2,
        ),
        (CROSS_ENTROPY, log_mean(0.3, 0.8)),
        (
            replace(CROSS_ENTROPY, class_weights=(9.0, 1.0, 4.0)),
            -(math.log(0.3) + 4 * math.log(0.8)) / 5,
        ),
        (FOCAL, -(0.49 * math.log(0.3) + 0.04 * math.log(0.8)) / 2),
        (
            replace(FOCAL, focal_gamma=0.5),
            -(0.7**0.5 * math.log(0.3) + 0.2**0.5 * math.log(0.8)) / 2,
        ),
    ],
)
def test_three_classes_by_hand(config, wanted):
    assert compute(make_three(), config) == pytest.approx(wanted, rel=1e-5)
    assert compute(make_three(), replace(config, target="liver")) == pytest.approx(wanted, rel=1e-5)


def test_weights_add_up():
    parts = (
        (replace(DICE, smooth_px=0.3), 0.7),
        (replace(TVERSKY, smooth_px=0.3, tversky_exponent=0.75), 1.1),
        (CROSS_ENTROPY, 0.4),
        (replace(FOCAL, focal_gamma=1.5), 0.9),
    )
    for case in (make_binary(), make_three()):
        wanted = sum(weight * compute(case, config) for config, weight in parts)
        assert compute(case, EVERYTHING) == pytest.approx(wanted, rel=1e-5)


def test_p5s_loss_is_that_of_the_paper():
    """1 - TP / (TP + .7 FP + .3 FN), where it is defined."""
    config = replace(TVERSKY, smooth_px=1e-6)
    assert (config.tversky_alpha, config.tversky_beta) == (0.7, 0.3)
    assert compute(make_binary(), config) == pytest.approx(1 - 1.0 / 1.86, rel=1e-5)


def make_two_images():
    """One with a tumour of one pixel, one with none; logits 0, so that every probability is .5."""
    mask = np.zeros((2, 2, 2), np.uint8)
    mask[0, 1, 0] = 2
    return np.zeros((2, 2, 2, 1), np.float32), mask


def test_overlap_of_the_batch_or_of_each_image():
    # The batch: TP .5, FP 3.5, FN .5.  The images: TP .5, FP 1.5, FN .5; TP 0, FP 2, FN 0.
    batch = 1 - 1.0 / (0.5 + 2.0 + 0.5)
    images = 1 - (1.0 / (0.5 + 1.0 + 0.5) + 0.5 / (0 + 1.0 + 0.5)) / 2
    assert compute(make_two_images(), DICE) == pytest.approx(batch, rel=1e-6)
    assert compute(make_two_images(), replace(DICE, reduction="image")) == pytest.approx(
        images, rel=1e-6
    )


def test_a_logit_without_its_axis():
    """What keras.losses.Loss makes of [B, H, W, 1] beside a mask [B, H, W]."""
    logits, mask = make_binary()
    assert compute((logits[..., 0], mask), EVERYTHING) == compute((logits, mask), EVERYTHING)


def test_deep_supervision_sees_the_nearest_pixels():
    mask = np.array([0, 1, 2, 0, 2, 1, 1, 0], np.uint8)
    mask = np.stack([np.roll(mask, i) for i in range(8)])[None]
    random = np.random.default_rng(0)
    scales = [random.normal(size=(1, 8 >> i, 8 >> i, 3)).astype(np.float32) for i in range(3)]
    rows = (np.arange(8), np.array([1, 3, 5, 7]), np.array([2, 6]))
    losses = [
        compute((logits, mask[:, row][:, :, row]), EVERYTHING)
        for logits, row in zip(scales, rows, strict=True)
    ]
    wanted = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    assert compute((scales, mask), EVERYTHING) == pytest.approx(wanted, rel=1e-6)
    assert compute((scales[:1], mask), EVERYTHING) == pytest.approx(losses[0], rel=1e-6)
    # As PyTorch's "nearest-exact" and TensorFlow 2's "nearest" choose.
    small = tf.image.resize(mask[..., None], (2, 2), "nearest")[..., 0]
    np.testing.assert_array_equal(mask[:, rows[2]][:, :, rows[2]], small)


def reference(logits, mask, config):
    """The sum of all four losses of three classes in float64, written out anew."""
    prob = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    truth = np.eye(3)[mask]
    overlaps = {}
    for name, (alpha, beta) in {
        "dice": (0.5, 0.5),
        "tversky": (config.tversky_alpha, config.tversky_beta),
    }.items():
        p, t = prob[..., 1:].reshape(-1, 2), truth[..., 1:].reshape(-1, 2)
        tp, fp, fn = (p * t).sum(0), (p * (1 - t)).sum(0), ((1 - p) * t).sum(0)
        s = config.smooth_px
        overlaps[name] = (tp + s) / (tp + alpha * fp + beta * fn + s)
    right = (prob * truth).sum(-1)
    return (
        config.dice_weight * (1 - overlaps["dice"]).mean()
        + config.tversky_weight * ((1 - overlaps["tversky"]) ** config.tversky_exponent).mean()
        - config.cross_entropy_weight * np.log(right).mean()
        - config.focal_weight * ((1 - right) ** config.focal_gamma * np.log(right)).mean()
    )


def compute_gradient(logits, mask, config):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = segmentation_loss(logits, mask, config)
    return float(loss), tape.gradient(loss, logits).numpy()


def test_gradients_are_those_of_central_differences():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (2, 3, 2, 3)).astype(np.float32)
    mask = random.integers(0, 3, (2, 3, 2)).astype(np.uint8)
    loss, gradient = compute_gradient(logits, mask, EVERYTHING)
    exact = logits.astype(np.float64)
    assert loss == pytest.approx(reference(exact, mask, EVERYTHING), rel=1e-5)
    for place in np.ndindex(*logits.shape):
        step = np.zeros_like(exact)
        step[place] = 1e-5
        ends = (reference(exact + sign * step, mask, EVERYTHING) for sign in (1, -1))
        difference = next(ends) - next(ends)
        assert gradient[place] == pytest.approx(difference / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reduction", ["batch", "image"])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("size", [0.0, 20.0, -20.0, 1e4, -1e4])
def test_one_label_everywhere_is_defined(channels, reduction, label, size):
    """Empty masks and full ones, undecided, sure and wrong networks: finite, with finite slopes."""
    logits = np.zeros((2, 4, 4, channels), np.float32)
    logits[..., -1] = size
    mask = np.full((2, 4, 4), label, np.uint8)
    for config in (
        replace(EVERYTHING, reduction=reduction),
        replace(EVERYTHING, reduction=reduction, focal_gamma=0.5, overlap_of="regions"),
    ):
        loss, gradient = compute_gradient(logits, mask, config)
        assert math.isfinite(loss) and loss >= -1e-6
        assert np.isfinite(gradient).all()


def test_empty_mask_pulls_towards_nothing():
    logits = np.zeros((1, 4, 4, 1), np.float32)
    mask = np.zeros((1, 4, 4), np.uint8)
    for config in (DICE, TVERSKY, CROSS_ENTROPY, FOCAL):
        loss, gradient = compute_gradient(logits, mask, config)
        assert loss > 0.1 and (gradient > 0).all()
        assert compute((logits - 30, mask), config) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_in_float32_out(dtype):
    """512 x 512 pixels sum to more than float16 holds."""
    logits = tf.zeros((1, 512, 512, 1), dtype)
    mask = np.full((1, 512, 512), 2, np.uint8)
    # TP and FN are half of the pixels each.
    half = 512 * 512 / 2
    wanted = 1 - (half + 0.5) / (1.5 * half + 0.5)
    assert compute((logits, mask), DICE) == pytest.approx(wanted, rel=1e-5)
    assert compute((logits, mask), CROSS_ENTROPY) == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("case", [make_binary(), make_three()], ids=["binary", "three_class"])
def test_compiles_under_xla(case):
    compiled = tf.function(lambda x, y: segmentation_loss(x, y, EVERYTHING), jit_compile=True)
    assert float(compiled(*case)) == pytest.approx(compute(case, EVERYTHING), rel=1e-5)


def test_is_a_loss_of_keras():
    logits, mask = make_binary()
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Activation("linear")(image))
    model.compile(loss=lambda y, z: segmentation_loss(z, y, EVERYTHING))
    found = model.evaluate(logits, mask, verbose=0)
    assert found == pytest.approx(compute((logits, mask), EVERYTHING), rel=1e-5)


def test_no_weight_at_all():
    with pytest.raises(RecipeError) as caught:
        segmentation_loss(*make_binary(), NOTHING)
    assert str(caught.value) == (
        "No loss has a weight in loss: found 0 for dice, tversky, cross_entropy and focal, wanted "
        "one above 0; set loss.dice_weight=1."
    )


def test_class_weights_of_another_head():
    with pytest.raises(RecipeError) as caught:
        segmentation_loss(*make_binary(), replace(FOCAL, class_weights=(1.0, 1.0, 1.0)))
    assert str(caught.value) == (
        "The class weights do not fit the head in loss.class_weights: found 3 numbers, wanted 2: "
        "of background and of each class; name as many, or none."
    )


@pytest.mark.parametrize(
    "config",
    [
        replace(CROSS_ENTROPY, class_weights=(0.0, 1.0, 1.0)),
        SegmentationLossConfig(smooth_px=0.0),
    ],
)
def test_an_empty_mask_is_defined_without_smoothing_or_weight(config):
    logits = np.zeros((1, 4, 4, 3), np.float32)
    logits[..., 0] = 200.0
    assert np.isfinite(segmentation_loss(logits, np.zeros((1, 4, 4), np.uint8), config))
