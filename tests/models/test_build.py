"""What the table of networks gives, and that a file of each opens where nothing else was done."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lesionkeras import config
from lesionkeras.config import ResNet50UNetConfig, SegNetConfig, UNetConfig
from lesionkeras.models import BUILDERS, build
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
