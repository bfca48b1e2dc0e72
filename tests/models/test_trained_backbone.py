"""A run's backbone as another run's first weights, and never as a leak."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from experiments import export_backbone
from lesionkeras.config import (
    DataConfig,
    ResNet50UNetConfig,
    ResNet50UNetRecipe,
    RetinaNetConfig,
    RetinaNetRecipe,
    SSDConfig,
    UNetRecipe,
)
from lesionkeras.errors import RecipeError, RunError
from lesionkeras.models import build
from lesionkeras.models.trained_backbone import check_unseen, find_trained_on, write_backbone
from lesionkeras.models.weights import load_backbone_weights, resolve_input_scaling
from lesionkeras.recipe import to_json
from lesionkeras.training.run import describe_environment

HELD = ("volume-6", "volume-7")


def make_run(folder, recipe, experiment="resnet50_unet"):
    """A finished run as far as its backbone goes: random weights for trained ones."""
    folder.mkdir()
    tree = {"experiment": experiment, "recipe": to_json(recipe)}
    (folder / "recipe.json").write_text(json.dumps(tree))
    keras.utils.set_random_seed(5)
    model = build(recipe.model)
    for layer in model.get_layer("resnet34").layers:
        for variable in layer.weights:
            variable.assign(np.random.default_rng(3).uniform(0.5, 1.5, variable.shape))
    model.save(folder / "model.keras")
    return model


RECIPE = ResNet50UNetRecipe(
    model=ResNet50UNetConfig(backbone="resnet34", decoder_channels=(8, 8, 8, 8, 8))
)
RECIPE = replace(RECIPE, data=replace(RECIPE.data, name="lits+ircadb01", held_out=HELD))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, make_run(folder, RECIPE)


@pytest.fixture(scope="module")
def weights(run):
    file = run[0].parent / "backbone.npz"
    export_backbone.main(["--run", str(run[0]), "--out", str(file)])
    return file


@pytest.mark.parametrize("scaling", ["unit", "imagenet_caffe", "imagenet_torch"])
def test_a_detector_starts_where_the_segmenter_ended(run, tmp_path, scaling):
    folder, trained = run
    tree = json.loads((folder / "recipe.json").read_text())
    tree["recipe"]["model"]["input_scaling"] = scaling
    other = tmp_path / "run"
    other.mkdir()
    (other / "recipe.json").write_text(json.dumps(tree))
    (other / "model.keras").symlink_to(folder / "model.keras")
    file = tmp_path / "backbone.npz"
    assert write_backbone(other, file) == 36 * 5
    config = resolve_input_scaling(SSDConfig(backbone="resnet34", weights=str(file)))
    assert config.input_scaling == scaling
    model = build(config)
    load_backbone_weights(model, config)
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    ours, theirs = (each.get_layer("resnet34")(images) for each in (model, trained))
    for found, wanted in zip(ours, theirs[1:], strict=True):
        np.testing.assert_array_equal(found, wanted)


def start(weights, **data):
    model = RetinaNetConfig(backbone="resnet34", weights=str(weights))
    return RetinaNetRecipe(data=DataConfig(**data), model=model)


def test_those_who_were_held_out_may_be_tested_on(weights):
    for name, held_out in (
        ("lits", HELD),
        ("ircadb01+lits", HELD[:1]),
        ("deeplesion", ()),
    ):
        check_unseen(start(weights, name=name, held_out=held_out))
    check_unseen(start(weights, name="lits", held_out=HELD, test_sets=("deeplesion/liver",)))
    check_unseen(start("none", name="lits"))
    check_unseen(UNetRecipe())


@pytest.mark.parametrize(
    "data",
    [
        {"name": "lits"},
        {"name": "lits", "held_out": ("volume-0",)},
        {"name": "lits", "held_out": (*HELD, "volume-0")},
        {"name": "ircadb01", "held_out": ("ircadb01_01",)},  # LiTS has its patients
        {"name": "deeplesion+lits"},
        {"name": "lits", "held_out": HELD, "validation_fraction": 0.1},
        {"name": "deeplesion", "test_sets": ("ircadb01/slices",)},
    ],
    ids=str,
)
def test_those_who_were_trained_on_may_not(weights, data):
    with pytest.raises(RecipeError, match="may have seen") as caught:
        check_unseen(start(weights, **data))
    assert "trained on lits+ircadb01 without volume-6, volume-7" in str(caught.value)


def test_a_run_carries_on_whom_its_own_weights_were_trained(weights, run, tmp_path):
    """From LiTS to a folder's images to LiTS again: still no new patients."""
    second = replace(RECIPE, model=replace(RECIPE.model, weights=str(weights)))
    second = replace(second, data=replace(RECIPE.data, name="folder", held_out=()))
    folder = tmp_path / "run"
    folder.mkdir()
    environment = describe_environment("", "", find_trained_on(second))
    tree = {"recipe": to_json(second), "environment": environment}
    (folder / "recipe.json").write_text(json.dumps(tree))
    (folder / "model.keras").symlink_to(run[0] / "model.keras")
    write_backbone(folder, tmp_path / "second.npz")
    check_unseen(start(tmp_path / "second.npz", name="lits", held_out=HELD))
    for name in ("lits", "folder"):
        with pytest.raises(RecipeError, match="may have seen"):
            check_unseen(start(tmp_path / "second.npz", name=name, held_out=("volume-0",)))


def test_what_has_no_backbone_is_refused_and_nothing_written(run, tmp_path):
    out = tmp_path / "backbone.npz"
    with pytest.raises(RecipeError, match="A folder is no run"):
        write_backbone(tmp_path, out)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": to_json(UNetRecipe())}))
    with pytest.raises(RecipeError, match=r"has no ResNet.*found model.backbone none"):
        write_backbone(tmp_path, out)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": to_json(RECIPE)}))
    with pytest.raises(RunError, match="no trained network"):
        write_backbone(tmp_path, out)
    (tmp_path / "model.keras").write_bytes(b"half a file")
    with pytest.raises(RunError, match="network cannot be read"):
        write_backbone(tmp_path, out)
    (tmp_path / "model.keras").unlink()
    standardised = replace(RECIPE, data=replace(RECIPE.data, normalisation="standardise"))
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": to_json(standardised)}))
    with pytest.raises(RecipeError, match="standardised images"):
        write_backbone(tmp_path, out)
    for name in ("backbone.h5", "nowhere/backbone.npz"):
        with pytest.raises(RecipeError, match="--out cannot be written"):
            export_backbone.main(["--run", str(run[0]), "--out", str(tmp_path / name)])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
