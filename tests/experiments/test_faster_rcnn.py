"""P2's detector from its command line."""

import json

import pytest

from experiments import faster_rcnn
from lesionkeras.cli import parse


def test_p2_is_what_p2_writes():
    """P2, 3 and 5.2."""
    recipe, options = parse("faster_rcnn", faster_rcnn.RECIPES, "", {}, ["--recipe", "p2"])
    assert options.experiment == "faster_rcnn"
    assert (recipe.data.image_size_px, recipe.train.epochs) == (512, 150)
    assert (recipe.model.backbone, recipe.model.weights) == ("resnet50", "imagenet")
    sides = [scale * 16 * recipe.model.anchors.size_factor for scale in recipe.model.anchors.scales]
    assert (sides, recipe.model.anchors.ratios) == ([16, 24, 32, 48, 96], (0.5, 1.0, 2.0))
    assert (recipe.match.rpn.positive_iou, recipe.augment.mode) == (0.7, "none")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet34", "vgg16"])
@pytest.mark.parametrize("recipe", faster_rcnn.RECIPES)
def test_smoke_runs(capsys, tmp_path, recipe, backbone):
    out = tmp_path / "run"
    words = ["--smoke", "--recipe", recipe, "--backbone", backbone, "--out", str(out)]
    small = ("--set", "model.head_channels=64", "--prepared-dir", str(tmp_path / "prepared"))
    faster_rcnn.main([*words, *small])
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("Score: mAP50 ")
    parts = ("rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss")
    assert all(part in (out / "log.csv").read_text().splitlines()[0] for part in parts)
    assert json.loads((out / "recipe.json").read_text())["recipe"]["name"] == recipe
    for name in ("model.keras", "export/1/saved_model.pb", "report.html", "metrics.json"):
        assert (out / name).stat().st_size > 0
