import dataclasses
import json
import math

import pytest

from lesionkeras import config
from lesionkeras.config import (
    AnchorConfig,
    BaselineCNNRecipe,
    FasterRCNNRecipe,
    ResNet50UNetRecipe,
    RetinaNetRecipe,
    SegNetRecipe,
    SSDRecipe,
    UNetRecipe,
)
from lesionkeras.errors import RecipeError
from lesionkeras.limits import ORDERED, PART_RULES, RULES
from lesionkeras.recipe import (
    check_recipe,
    diff,
    diff_trees,
    digest,
    find_nearest,
    flatten,
    format_value,
    from_json,
    override,
    read_recipe,
    to_json,
    write_recipe,
)

# A value for every field that is not its default, as text and as it must come out.
CHANGED = {
    "name": ("other-1.2", "other-1.2"),
    "data.name": ("deeplesion", "deeplesion"),
    "data.validation_split": ("", ""),
    "data.validation_fraction": ("0.25", 0.25),
    "data.keep_noisy": ("false", False),
    "data.image_size_px": ("320", 320),
    "data.window_hu": ("-100,300.5", (-100.0, 300.5)),
    "augment.gamma": ("(0.7, 1.5)", (0.7, 1.5)),
    "augment.flip_up_down": ("False", False),
    "match.variances": ("1,2,3,4", (1.0, 2.0, 3.0, 4.0)),
    "model.extra_channels": ("", ()),
    "model.anchors.strides_px": ("8,16", (8, 16)),
    "model.anchors.size_factor": ("3", 3.0),
    "optimizer.learning_rate": ("5e-4", 0.0005),
    "train.epochs": ("7", 7),
}


def change_all():
    return override(SSDRecipe(), {path: text for path, (text, _) in CHANGED.items()})


@pytest.mark.parametrize("path", CHANGED)
def test_override_reads_text_by_the_type_of_the_field(path):
    text, wanted = CHANGED[path]
    before, after = SSDRecipe(), override(SSDRecipe(), {path: text})
    value = flatten(after)[path]
    assert value == wanted
    assert type(value) is type(wanted)
    assert flatten(after) == {**flatten(before), path: wanted}
    assert before == SSDRecipe()


def test_override_takes_values_as_they_are():
    changed = override(SSDRecipe(), {"loss.box_weight": 2, "augment.scale": [0.5, 1]})
    assert changed.loss.box_weight == 2.0
    assert type(changed.loss.box_weight) is float
    assert changed.augment.scale == (0.5, 1.0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "optimizer.learning_rat",
            "1",
            "A recipe field is unknown: found optimizer.learning_rat; "
            "did you mean optimizer.learning_rate.",
        ),
        (
            "learning_rate",
            "1",
            "A recipe field is unknown: found learning_rate; did you mean optimizer.learning_rate.",
        ),
        (
            "model.anchor.ratios",
            "1",
            "A recipe field is unknown: found model.anchor.ratios; "
            "did you mean model.anchors.ratios.",
        ),
        ("train", "1", "A recipe field is unknown: found train; did you mean train.epochs."),
        (
            "train.epochs.x",
            "1",
            "A recipe field is unknown: found train.epochs.x; did you mean train.epochs.",
        ),
        ("train.epochs", "7.5", "train.epochs cannot be read: found '7.5', wanted a whole number."),
        ("train.epochs", 7.0, "train.epochs cannot be read: found 7.0, wanted a whole number."),
        ("train.epochs", True, "train.epochs cannot be read: found True, wanted a whole number."),
        (
            "loss.box_weight",
            "nan",
            "loss.box_weight cannot be read: found 'nan', wanted a number.",
        ),
        (
            "loss.box_weight",
            math.inf,
            "loss.box_weight cannot be read: found inf, wanted a number.",
        ),
        (
            "data.keep_noisy",
            "yes",
            "data.keep_noisy cannot be read: found 'yes', wanted true or false.",
        ),
        ("data.name", 3, "data.name cannot be read: found 3, wanted a text."),
        (
            "augment.gamma",
            "1,2,3",
            "augment.gamma cannot be read: found '1,2,3', wanted 2 numbers with commas between.",
        ),
        (
            "model.anchors.strides_px",
            "4,x",
            "model.anchors.strides_px cannot be read: found '4,x', "
            "wanted whole numbers with commas between.",
        ),
    ],
)
def test_override_errors(path, value, message):
    with pytest.raises(RecipeError) as caught:
        override(SSDRecipe(), {path: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("train.epochs", "0", "found 0, wanted a whole number of 1 or more."),
        ("train.seed", "-1", "found -1, wanted a number from 0 to 4294967295."),
        ("train.seed", "4294967296", "found 4294967296, wanted a number from 0 to 4294967295."),
        ("match.negative_iou", "0", "found 0.0, wanted a number above 0, at most 1."),
        ("data.image_size_px", "250", "found 250, wanted a positive multiple of 32 up to 4096."),
        ("augment.crop_size_px", "-32", "found -32, wanted 0 or a positive multiple of 32."),
        (
            "data.window_hu",
            "40,40",
            "found 40.0,40.0, wanted two numbers, the lower first, within -1024 to 3071 HU.",
        ),
        (
            "augment.crop_on_lesion_probability",
            "1.1",
            "found 1.1, wanted a number from 0 to 1.",
        ),
        ("optimizer.momentum", "1", "found 1.0, wanted a number of 0 or more and below 1."),
        ("optimizer.learning_rate", "0", "found 0.0, wanted a number above 0."),
        ("augment.gamma", "2,1", "found 2.0,1.0, wanted two numbers above 0, the lower first."),
        (
            "model.anchors.strides_px",
            "4,4,8",
            "found 4,4,8, wanted ascending whole numbers above 0, at least one.",
        ),
        ("model.anchors.scales", "", "found nothing, wanted numbers above 0, at least one."),
        ("model.prior_prob", "1", "found 1.0, wanted a number above 0 and below 1."),
        ("match.negative_iou", "0.6", "found 0.6, wanted at most match.positive_iou (0.5)."),
        ("decode.max_detections", "300", "found 300, wanted at most decode.candidates (256)."),
    ],
)
def test_values_out_of_range(path, text, message):
    with pytest.raises(RecipeError) as caught:
        override(SSDRecipe(), {path: text})
    assert str(caught.value) == f"{path} is out of range: {message}"


@pytest.mark.parametrize(
    ("path", "text", "nearest"),
    [
        ("model.backbone", "resnet43", "resnet34"),
        ("optimizer.name", "adamww", "adamw"),
        ("optimizer.schedule", "cos", "cosine"),
        ("train.precision", "float61", "float16"),
        ("data.protocol", "patients", "patient"),
        ("augment.mode", "copy", "copies"),
        ("model.weights", "image-net", "imagenet"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(path, text, nearest):
    with pytest.raises(RecipeError) as caught:
        override(SSDRecipe(), {path: text})
    assert str(caught.value).startswith(f"{path} is unknown: found {text}, wanted ")
    assert str(caught.value).endswith(f"; did you mean {nearest}.")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_name_must_fit_a_folder(name):
    with pytest.raises(RecipeError, match="it names a folder"):
        override(SSDRecipe(), {"name": name})


def test_the_default_passes_and_every_rule_belongs_to_a_field():
    detectors = (SSDRecipe, RetinaNetRecipe, FasterRCNNRecipe, BaselineCNNRecipe)
    segmenters = (UNetRecipe, SegNetRecipe, ResNet50UNetRecipe)
    recipes = [recipe() for recipe in (*detectors, *segmenters)]
    known = set().union(*map(flatten, recipes))
    for recipe in recipes:
        check_recipe(recipe)
    assert set(RULES) <= known
    assert {path for pair in ORDERED for path in pair} <= known
    for part, rules in PART_RULES.items():
        assert set(rules) <= {field.name for field in dataclasses.fields(getattr(config, part))}


def test_a_part_may_have_rules_of_its_own():
    assert override(UNetRecipe(), {"data.protocol": "p5"}).data.protocol == "p5"
    assert override(UNetRecipe(), {"train.epochs": 0}).train.epochs == 0
    for recipe, path, text in (
        (UNetRecipe(), "data.protocol", "paper"),
        (SSDRecipe(), "data.protocol", "p5"),
        (UNetRecipe(), "data.slices", "4"),
        (SSDRecipe(), "train.epochs", "0"),
    ):
        with pytest.raises(RecipeError, match=path):
            override(recipe, {path: text})


def test_rules_of_parts_that_a_recipe_lacks_are_passed_over():
    @dataclasses.dataclass(frozen=True)
    class Other:
        depth: int = 3

    assert override(Other(), {"depth": "5"}).depth == 5


def test_json_round_trip_of_values_that_are_no_defaults():
    recipe = change_all()
    tree = json.loads(json.dumps(to_json(recipe)))
    assert from_json(tree, SSDRecipe) == recipe
    assert tree["model"]["anchors"]["strides_px"] == [8, 16]


def test_json_that_leaves_fields_out_takes_their_defaults():
    recipe = from_json({"train": {"epochs": 3}}, SSDRecipe)
    assert recipe == override(SSDRecipe(), {"train.epochs": 3})


def test_file_round_trip(tmp_path):
    path, recipe = tmp_path / "recipe.json", change_all()
    write_recipe(path, recipe, "ssd", {"commit": "abc"})
    assert read_recipe(path, SSDRecipe, "ssd") == recipe
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.json"]
    tree = json.loads(path.read_text())
    assert (tree["experiment"], tree["digest"], tree["commit"]) == ("ssd", digest(recipe), "abc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "A recipe file cannot be read in {path}: found No such file or directory, wanted"),
        ("{", "A recipe file is not JSON in {path}: found Expecting property name"),
        (b"\xff\xfe\x00", "A recipe file is not JSON in {path}: found 'utf-8' codec can't decode"),
        ("[]", "A recipe file holds no recipe in {path}: wanted a file like"),
        ('{"recipe": 3}', "A recipe file holds no recipe in {path}: wanted a file like"),
        (
            '{"experiment": "unet", "recipe": {}}',
            "A recipe file is another experiment's in {path}: found 'unet', wanted 'ssd'; "
            "run it with python -m experiments.unet.",
        ),
        (
            '{"recipe": {"train": {"epoch": 3}}}',
            "A recipe field is unknown in {path}: found train.epoch; did you mean train.epochs.",
        ),
        (
            '{"recipe": {"train": {"epochs": "many"}}}',
            "train.epochs cannot be read in {path}: found 'many', wanted a whole number.",
        ),
        (
            '{"recipe": {"train": 3}}',
            "A recipe field is unknown in {path}: found train; did you mean",
        ),
    ],
)
def test_file_errors_name_the_file(tmp_path, text, message):
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, SSDRecipe, "ssd")
    assert str(caught.value).startswith(message.format(path=path))


def test_digest_follows_values_and_nothing_else():
    assert digest(SSDRecipe()) == digest(SSDRecipe(model=dataclasses.replace(SSDRecipe().model)))
    digests = {digest(override(SSDRecipe(), {path: text})) for path, (text, _) in CHANGED.items()}
    assert len(digests | {digest(SSDRecipe())}) == len(CHANGED) + 1
    # By hand: sha256sum of {"ratios":[1.0],"scales":[1.0],"size_factor":2.5,"strides_px":[4]}
    anchors = AnchorConfig(strides_px=(4,), size_factor=2.5, scales=(1.0,), ratios=(1.0,))
    assert digest(anchors) == "e3fd72891a44d12a"


def test_diff_lists_paths_with_both_values():
    other = override(SSDRecipe(), {"train.epochs": 3, "augment.gamma": "1,2"})
    assert diff(SSDRecipe(), other) == [
        ("augment.gamma", (0.8, 1.25), (1.0, 2.0)),
        ("train.epochs", 75, 3),
    ]
    assert diff(other, other) == []
    assert diff_trees({"a": 1, "b": {"c": 2}}, {"b": {"c": 2, "d": 3}}) == [
        ("a", 1, None),
        ("b.d", None, 3),
    ]


def test_values_are_written_as_override_reads_them():
    recipe = change_all()
    texts = {path: format_value(value) for path, value in flatten(recipe).items()}
    assert override(SSDRecipe(), texts) == recipe


def test_nearest():
    assert find_nearest("EPOCHS", ["batch", "epochs"]) == "epochs"
    assert find_nearest("gama", flatten(SSDRecipe())) == "augment.gamma"


def test_fields_that_came_later_change_no_published_name():
    """The digests of the recipes before detection had pooled data, budgets and rotation."""
    from experiments import ssd, unet

    assert digest(ssd.RECIPES["default"]) == "22828c5ccee69aa7"
    assert digest(ssd.RECIPES["paper"]) == "9e2c2e07c4fc2287"
    assert digest(unet.RECIPES["p4"]) == "5570f5ead4c049ef"
    changed = {
        "data.held_out": "a,b",
        "data.test_sets": "deeplesion/liver",
        "data.pixel_mm": "1.25",
        "data.box_convention": "tight",
        "data.lesion_share": "0.5",
        "augment.rotation_deg": "10",
        "augment.key_slice_only": "0.5",
        "train.cpu_budget_s": "600",
    }
    names = {digest(override(SSDRecipe(), {path: text})) for path, text in changed.items()}
    assert len(names | {digest(SSDRecipe())}) == len(changed) + 1
    back = override(
        override(SSDRecipe(), changed), {path: flatten(SSDRecipe())[path] for path in changed}
    )
    assert digest(back) == digest(SSDRecipe())


def test_a_run_from_before_a_field_came_reads_as_its_default():
    tree = to_json(SSDRecipe())
    del tree["train"]["cpu_budget_s"], tree["data"]["held_out"]
    assert from_json(tree, SSDRecipe) == SSDRecipe()


def test_a_record_from_before_a_field_was_there_has_the_fields_default():
    """Today's default of a network may set a field that yesterday's runs did not have."""
    from lesionkeras.config import UNetRecipe

    tree = to_json(UNetRecipe())
    assert from_json(tree, UNetRecipe) == UNetRecipe()
    for name in ("slice_mm", "vary_slices", "liver_hu", "made_lesions"):
        del tree["data"][name]
    del tree["augment"]["contrast"]
    old = from_json(tree, UNetRecipe)
    assert (old.data.slice_mm, old.data.liver_hu, old.data.made_lesions) == (0.0, 0.0, 0.0)
    assert (old.augment.contrast, old.augment.sharpness) == (0.0, 0.5)
    written_by_hand = {"data": {"window_hu": [-50.0, 150.0]}, "augment": {"contrast": 0.1}}
    new = from_json(written_by_hand, UNetRecipe)
    assert (new.data.slice_mm, new.data.liver_hu) == (2.5, 100.0)
    assert (new.augment.contrast, new.augment.sharpness) == (0.1, 0.5)
