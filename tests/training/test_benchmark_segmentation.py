import math
import sys

import numpy as np
import pytest

from lesionkeras.errors import RunError
from lesionkeras.models import freed_memory
from lesionkeras.models.fast import count_operations
from lesionkeras.training import benchmark_segmentation as module
from lesionkeras.training.benchmark import choose_sizes, format_report
from lesionkeras.training.monai_unet import VARIANTS
from lesionkeras.training.peers import Child

SHIFT = 1e-3  # of the stand-in's logits
STAND_IN = """
import sys
import numpy as np
from lesionkeras.training.monai_unet import VARIANTS, serve

arrays, images = np.load(sys.argv[1]), np.load(sys.argv[2])
assert arrays["down0_conv1/kernel"].shape == (3, 3, 1, 2)
wanted, most = np.load(sys.argv[3]), int(sys.argv[4])
infer = lambda x: wanted[: len(x)] if len(x) <= most else sys.exit(9)
serve({name: infer for name in (*VARIANTS, "Keras, no oneDNN")}, images, {})
"""


@pytest.fixture(scope="module")
def network():
    images = module.make_images(2, 32)
    return module.build_network(2, images), images


def test_images_have_something_in_them_and_differ(network):
    _, images = network
    assert images.shape == (2, 32, 32, 1) and images.dtype == np.float32
    assert images.min() == 0 and images.max() <= 1 and images.std() > 0.1
    assert not np.allclose(images[0], images[1], atol=0.2)


def test_the_network_is_as_lively_as_a_trained_one(network):
    model, images = network
    masks = model(images, training=False).numpy() > 0
    assert 0.2 < masks.mean() < 0.4
    norm = model.get_layer("down1_conv2_norm")
    assert norm.momentum > 0.5 and norm.moving_variance.numpy().std() > 0
    again = module.build_network(2, images)
    assert np.array_equal(again(images), model(images))


def test_dice_counts_pixels_above_zero_and_two_empty_masks_show_nothing():
    a = np.array([3.0, 1.0, -1.0, -2.0])
    assert module.compute_dice(a, -a) == 0
    assert module.compute_dice(a, np.array([3.0, 1.0, 1.0, -2.0])) == pytest.approx(2 * 2 / 5)
    assert math.isnan(module.compute_dice(-np.ones(3), -np.ones(3)))


@pytest.fixture
def put_stand_ins(network, monkeypatch, tmp_path):
    """Puts peers that end at larger batches than the given in place; returns their variables."""

    def put(most):
        model, images = network
        np.save(tmp_path / "logits.npy", model(images, training=False).numpy() + SHIFT)
        environments = {}

        def start(name, command, environment=None):
            environments[name] = environment
            files = [word for word in command if word.endswith((".npz", ".npy"))]
            words = [sys.executable, "-c", STAND_IN, *files, str(tmp_path / "logits.npy")]
            return Child(name, [*words, str(most)], environment)

        monkeypatch.setattr(module, "Child", start)
        monkeypatch.setattr(module, "make_environment", lambda folder: folder / "python")
        monkeypatch.setattr(module, "keep_freed_memory", lambda: True)
        monkeypatch.setattr(module, "MATMUL_SIDE", 64)
        return environments

    return put


def test_a_peer_that_ends_at_larger_batches_loses_nothing_of_the_others(put_stand_ins):
    put_stand_ins(most=1)
    report = module.benchmark_segmentation(1, 1, 32, 2, (1, 2))
    assert {row["task"].split(",")[0] for row in report["rows"]} == {"1"}
    last = format_report(report).splitlines()[-1]
    assert last.startswith("batches of 2 are not measured: A peer of the benchmark has ended")
    assert "exit status 9" in last
    with pytest.raises(RunError, match="exit status 9"):
        module.benchmark_segmentation(1, 1, 32, 2, (2,))


def test_report_has_every_contestant_agreement_and_arithmetic(network, put_stand_ins):
    model, _ = network
    environments = put_stand_ins(most=2)
    report = module.benchmark_segmentation(1, 2, 32, 2, (1, 2))
    names = ["Keras", *(f"MONAI, {variant}" for variant in VARIANTS), "Keras, no oneDNN"]
    assert [row["task"] for row in report["rows"]] == [f"{b}, {n}" for b in (1, 2) for n in names]
    for row in report["rows"]:
        name = row["task"].split(", ", 1)[1]
        ours, other = row["images_per_s"]["LesionKeras"], row["images_per_s"][name]
        assert row["ratio"] == ours["median"] / other["median"]
        shift = 0 if name == "Keras" else SHIFT
        assert row["largest_difference"] == pytest.approx(shift, abs=1e-4)
        assert row["dice"] > 0.9 and set(row["cpu_s_per_image"]) == {"LesionKeras", name}
    # all keep what they free, as we do
    for variables in environments.values():
        assert variables.items() >= freed_memory.ENVIRONMENT.items()
    assert list(environments) == ["MONAI", "Keras, no oneDNN"]
    assert any("by environment" in note for note in report["notes"])
    arithmetic = report["arithmetic"]
    assert arithmetic["direct_gflop"] == count_operations(model, (32, 32, 1)) / 1e9
    rate = max(row["images_per_s"]["LesionKeras"]["max"] for row in report["rows"])
    assert arithmetic["direct_gflop_s"] == pytest.approx(rate * arithmetic["direct_gflop"])
    shown = format_report(report)
    assert "1, MONAI, frozen" in shown and "masks agree at Dice" in shown
    assert "GFLOP/s of a large matrix product" in shown.splitlines()[-1]


def test_the_whole_network_is_measured_unless_a_tiny_one_is_wanted():
    assert choose_sizes(512, smoke=False) == (512, 64, (1, 8))
    assert choose_sizes(96, smoke=True) == (96, 8, (1, 2))


def test_arithmetic_of_the_full_network():
    """Ronneberger's channels at 512x512: convolutions summed by hand."""
    model = module.build_unet(module.UNetConfig(in_channels=1, head="binary"))
    pixels = [512**2 >> 2 * level for level in range(5)]
    widths = [64, 128, 256, 512, 1024]
    total = pixels[0] * (9 * 1 * 64 + 64)  # the first and the last
    total += sum(p * 9 * w * w for p, w in zip(pixels, widths, strict=True))
    for level in range(1, 5):
        total += pixels[level] * 9 * widths[level] * widths[level - 1]  # the way down
        total += pixels[level] * 4 * widths[level] * widths[level - 1]  # up
        total += pixels[level - 1] * 9 * 3 * widths[level - 1] ** 2  # joined, and once more
    assert count_operations(model, (512, 512, 1)) == 2 * total
