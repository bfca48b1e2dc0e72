"""RetinaNet's heads against torchvision's, weights copied over."""

import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from lesionkeras.config import AnchorConfig, RetinaNetConfig
from lesionkeras.models.retinanet import build_head
from lesionkeras.training.peers import get_peers_dir, make_environment
from tests.models import torchvision_heads as peer

STORED = Path(__file__).with_name("torchvision_heads.npz")
PINS = ("torch==2.12.1", "torchvision==0.27.1", "numpy==2.4.6")


def run_ours(name, norm):
    config = RetinaNetConfig(
        pyramid_channels=peer.CHANNELS,
        head_convs=peer.CONVS,
        norm=norm,
        anchors=AnchorConfig(scales=(1.0,), ratios=(0.5, 1.0, 2.0)),
    )
    head = build_head(config, name, peer.WIDTHS[name], 0.0)
    head.set_weights(peer.make_weights(name, norm))
    rows = [head(features) for features in peer.make_features()]
    return keras.ops.convert_to_numpy(keras.ops.concatenate(rows, axis=1))


def check(path):
    with np.load(path) as stored:
        assert len(stored) == 4
        for key, wanted in stored.items():
            norm, name = key.split("_")
            assert wanted.shape == (2, (5 * 6 + 3 * 3) * peer.ANCHORS, peer.WIDTHS[name])
            assert wanted.std() > 0.1
            np.testing.assert_allclose(run_ours(name, norm), wanted, atol=1e-4, rtol=0)


def test_heads_are_torchvisions():
    check(STORED)


@pytest.mark.slow
def test_heads_are_todays_torchvisions(tmp_path):
    """Makes torchvision's environment where it is not there: a network is needed."""
    python = make_environment(get_peers_dir() / "-".join(PINS).replace("==", "-"), PINS)
    out = tmp_path / "heads.npz"
    subprocess.run([str(python), peer.__file__, str(out)], check=True)
    check(out)
