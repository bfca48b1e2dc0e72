"""What the table of networks gives, and that a file of each opens where nothing else was done."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lesionkeras import config
from lesionkeras.config import (
    BaselineCNNRecipe,
    FasterRCNNRecipe,
    ResNet50UNetConfig,
    RetinaNetRecipe,
    SegNetConfig,
    SSDRecipe,
    UNetConfig,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models import BUILDERS, build, build_detector, check_detector
from lesionkeras.recipe import override
from tests.models.segmenter_harness import make_livers

SMALL = {
    "unet": UNetConfig(base_channels=4, depth=3, deep_supervision=1),
    "segnet": SegNetConfig(channels=(4, 4, 4, 4, 4)),
    "resnet50_unet": ResNet50UNetConfig(backbone="resnet34", decoder_channels=(8, 8, 8, 8, 4)),
}
OPEN = """
import sys
import numpy as np
import lesionkeras.models
import keras
image = np.load(sys.argv[1])
for path in sys.argv[2:]:
    outputs = keras.models.load_model(path)(image, training=False)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    np.savez(path + ".npz", *[np.asarray(output) for output in outputs])
"""


def test_every_network_has_a_builder():
    names = ("SSD", "RetinaNet", "FasterRCNN", "BaselineCNN", "UNet", "SegNet", "ResNet50UNet")
    assert set(BUILDERS) == {getattr(config, f"{name}Config") for name in names}
    for name, small in SMALL.items():
        assert build(small).name == name


def test_files_open_in_a_fresh_process(tmp_path):
    image = make_livers(2, 32, 64)[0]
    np.save(tmp_path / "image.npy", image)
    wanted = {}
    for name, small in SMALL.items():
        model = build(small)
        model.save(path := tmp_path / f"{name}.keras")
        outputs = model(image, training=False)
        wanted[path] = outputs if isinstance(outputs, list) else [outputs]
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", OPEN, str(tmp_path / "image.npy"), *map(str, wanted)]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path, outputs in wanted.items():
        with np.load(f"{path}.npz") as found:
            assert len(found) == len(outputs)
            for ours, reference in zip(found.values(), outputs, strict=True):
                np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_network_is_the_same_from_its_config(config):
    model = build(config)
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert [v.shape for v in again.variables] == [v.shape for v in model.variables]
    assert [v.path for v in again.variables] == [v.path for v in model.variables]


@pytest.mark.parametrize(
    ("recipe", "changes", "text"),
    [
        (SSDRecipe(), {"model.anchors.strides_px": "4,8,16,32,64"}, "An anchor stride has no map"),
        (
            SSDRecipe(),
            {"model.prior_prob": "0.5", "model.num_classes": "2"},
            "The classes together",
        ),
        (SSDRecipe(), {"model.freeze_norm": "true"}, "Frozen norms keep the statistics"),
        (RetinaNetRecipe(), {"model.anchors.strides_px": "2"}, "An anchor stride has no map"),
        (RetinaNetRecipe(), {"model.freeze_norm": "true"}, "Frozen norms keep the statistics"),
        (FasterRCNNRecipe(), {"model.pyramid_channels": "0"}, "An anchor stride has no map"),
        (FasterRCNNRecipe(), {"model.freeze_norm": "true"}, "Frozen norms keep the statistics"),
    ],
)
def test_what_makes_no_detector_is_refused_before_anything_is_built(recipe, changes, text):
    with pytest.raises(RecipeError, match=text):
        check_detector(override(recipe, changes))


def test_vgg16_has_no_norms_that_could_be_frozen():
    changes = {"model.freeze_norm": "true", "model.backbone": "vgg16"}
    check_detector(override(FasterRCNNRecipe(), changes))


def test_predict_gives_detections():
    """Batch by batch what `detect` gives, and no raw outputs.

    Boxes to a hundredth of a pixel: corners of an untrained network lie hundreds of pixels outside
    the image, and how a batch's sums are ordered moves them by ten-thousandths.
    """
    keras.utils.set_random_seed(0)
    recipe = override(BaselineCNNRecipe(), {"data.image_size_px": "32"})
    model = build_detector(recipe)
    image_unit = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    found, wanted = model.predict(image_unit, batch_size=2, verbose=0), model.detect(image_unit)
    assert set(found) == {"boxes", "scores", "classes", "num_detections"}
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-2 if name == "boxes" else 0)
