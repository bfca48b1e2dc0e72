"""RetinaNet and P2's networks of one box from their command lines."""

import json

import pytest

from experiments import baseline_cnn, faster_rcnn, retinanet
from lesionkeras.recipe import flatten
from lesionkeras.report.tables import agrees_with, find_paper

RUNS = [(module, name) for module in (retinanet, baseline_cnn) for name in module.RECIPES]


def test_one_box_recipes_are_what_p2_writes():
    """P2, 5.1.1 and 5.1.3; the page of a run says so, too."""
    recipes = baseline_cnn.RECIPES
    for name, batch, rate, epochs, dropout in (
        ("p2", 8, 3e-3, 150, 0.0),
        ("p2_vgg", 1, 1e-4, 70, 0.05),
        ("p2_concat", 1, 1e-4, 70, 0.05),
    ):
        recipe = recipes[name]
        assert (recipe.train.batch_size, recipe.train.epochs) == (batch, epochs)
        assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("adam", rate)
        assert (recipe.data.image_size_px, recipe.model.dropout) == (512, dropout)
        values = flatten(recipe) | {"data.protocol": "p2"}  # --split p2
        _, said = find_paper("baseline_cnn", values)
        assert not [path for path in values if agrees_with(said, path, values[path]) is False]
    assert [recipes[name].model.frontend for name in ("p2", "p2_vgg", "p2_concat")] == [
        "none",
        "vgg16",
        "vgg16_concat",
    ]
    _, said = find_paper("baseline_cnn", flatten(recipes["p2"]))
    assert agrees_with(said, "augment.mode", "online") is False
    values = flatten(recipes["p2"]) | {"model.frontend": "vgg16"}
    _, said = find_paper("baseline_cnn", values)
    assert agrees_with(said, "optimizer.learning_rate", 3e-3) is False


def test_p2s_faster_rcnn_is_as_printed():
    """P2, 4.3 and 5.2: 1,660 train and 329 validate, and what is no positive is a negative."""
    recipe = faster_rcnn.RECIPES["p2"]
    assert (recipe.data.validation_split, recipe.data.validation_fraction) == ("", 0.165)
    assert (recipe.match.rpn.positive_iou, recipe.match.rpn.negative_iou) == (0.7, 0.7)
    values = flatten(recipe) | {"data.protocol": "p2"}
    _, said = find_paper("faster_rcnn", values)
    assert not [path for path in values if agrees_with(said, path, values[path]) is False]
    assert agrees_with(said, "data.validation_fraction", 0.0) is False


def test_retinanet_sees_p2s_data_as_its_faster_rcnn_does():
    """P2 has no RetinaNet: Lin's network, on P2's images and for as many epochs."""
    recipe = retinanet.RECIPES["p2"]
    assert (recipe.data.image_size_px, recipe.train.epochs) == (512, 150)
    assert (recipe.augment.mode, recipe.data.validation_fraction) == ("none", 0.165)
    assert recipe.model == retinanet.RECIPES["paper"].model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "recipe"), RUNS, ids=lambda each: getattr(each, "__name__", each)
)
def test_smoke_runs(capsys, tmp_path, module, recipe):
    out = tmp_path / "run"
    words = ["--smoke", "--recipe", recipe, "--out", str(out), "--set", "model.weights=none"]
    module.main([*words, "--prepared-dir", str(tmp_path / "prepared")])
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("Score: mAP50 ")
    assert json.loads((out / "recipe.json").read_text())["recipe"]["name"] == recipe
    for name in ("model.keras", "export/1/saved_model.pb", "report.html", "metrics.json"):
        assert (out / name).stat().st_size > 0
