"""Which folder goes to which data set, and what is refused before anything is read."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import tfds_builders
from experiments import baseline_cnn, faster_rcnn, open_data, open_data_sets, retinanet, ssd
from lesionkeras.cli import parse
from lesionkeras.errors import RecipeError

DETECTORS = ssd, retinanet, faster_rcnn, baseline_cnn
SETS = ("--data", "lits/slices+ircadb01", "--test-sets", "deeplesion/liver,liver_phantom")


@pytest.fixture
def opened(monkeypatch):
    calls = []

    def open_builder(name, config, prepared_dir, folder, progress):
        calls.append((name, config, folder and str(folder)))
        return SimpleNamespace(name=name)

    monkeypatch.setattr(tfds_builders, "open_builder", open_builder)
    return calls


def read(*words):
    return parse("ssd", ssd.RECIPES, "", ssd.SMOKE, [*words])


def test_folders_in_the_order_of_the_data_sets(opened):
    folders = [word for name in ("l", "i", "d", "-") for word in ("--data-dir", name)]
    recipe, options = read(*SETS, *folders)
    data_sets = open_data(recipe, options)
    assert opened == [
        ("lits", "slices", "l"),
        ("ircadb01", "", "i"),
        ("deeplesion", "liver", "d"),
        ("liver_phantom", "", None),
    ]
    assert [builder.name for builder in data_sets.pooled] == ["lits", "ircadb01"]
    assert {name: builder.name for name, builder in data_sets.further.items()} == {
        "deeplesion/liver": "deeplesion",
        "liver_phantom": "liver_phantom",
    }


def test_one_data_set_as_ever(opened):
    recipe, options = read("--data", "deeplesion/all", "--data-dir", "d")
    assert len(open_data(recipe, options).pooled) == 1
    assert open_data_sets(recipe, options)[0].name == "deeplesion"
    assert opened == [("deeplesion", "all", "d")] * 2


def test_p2s_split_opens_p2s_list(opened):
    recipe, options = read("--data", "deeplesion", "--split", "p2", "--data-dir", "d")
    open_data(recipe, options)
    assert opened == [("deeplesion", "p2", "d")]
    recipe, options = read("--data", "deeplesion/liver", "--split", "p2", "--data-dir", "d")
    with pytest.raises(RecipeError, match="cannot be mixed, as 197 of the 1,995"):
        open_data(recipe, options)
    assert len(opened) == 1


def test_too_few_folders(opened):
    recipe, options = read(*SETS, "--data-dir", "l", "--data-dir", "i")
    with pytest.raises(RecipeError) as caught:
        open_data(recipe, options)
    assert str(caught.value) == (
        "Every data set needs its own in --data-dir: found 2 for lits/slices and ircadb01 and "
        "deeplesion/liver and liver_phantom, wanted one a data set, in the order of --data."
    )
    assert not opened and options.more_data_dirs == (Path("i"),)


@pytest.mark.parametrize("module", DETECTORS, ids=lambda m: m.__name__)
def test_smoke_is_tiny_and_at_hand_whatever_the_recipe(opened, module):
    assert ("ct" in module.RECIPES) is (module is not baseline_cnn)  # one box is not for all slices
    for name in module.RECIPES:
        recipe, options = parse(
            "x", module.RECIPES, "", module.SMOKE, ["--smoke", "--recipe", name]
        )
        open_data(recipe, options, False)
        assert opened.pop() == ("liver_phantom", "tiny", None) and not opened
        assert recipe.train.cpu_budget_s == 0 and recipe.train.epochs == 2
