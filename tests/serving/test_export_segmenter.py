import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from lesionkeras.config import (
    InferenceConfig,
    ResNet50UNetConfig,
    ResNet50UNetRecipe,
    SegmentationDataConfig,
    SegmentationLossConfig,
    SegmentationRecipe,
    SegNetConfig,
    SegNetRecipe,
    UNetConfig,
    UNetRecipe,
)
from lesionkeras.ct.grid import find_grid, place_hu, to_slice
from lesionkeras.ct.window import standardise_numpy, window_numpy
from lesionkeras.errors import ExportError
from lesionkeras.inference.volumes import decode_probabilities, make_predictor
from lesionkeras.models import build
from lesionkeras.recipe import digest
from lesionkeras.serving.contract import check_contract
from lesionkeras.serving.export_segmenter import export_segmenter, make_serving_functions
from lesionkeras.serving.placing import take_planes
from lesionkeras.serving.png import encode_stored_png
from lesionkeras.serving.warmup import WARMUP_FILE
from tests.serving.conftest import make_image_hu
from tests.serving.test_export import run_python

THREE_CLASS = UNetRecipe(
    name="three",
    data=SegmentationDataConfig(
        image_size_px=32, slices=3, window_hu=(-100.0, 300.0), normalisation="standardise"
    ),
    inference=InferenceConfig(flips=True, tumour_bias=0.4),
    model=UNetConfig(in_channels=3, base_channels=4, depth=2, deep_supervision=0),
)
BINARY = SegNetRecipe(
    name="binary",
    data=SegmentationDataConfig(image_size_px=32, slices=1, pixel_mm=1.6),
    inference=InferenceConfig(threshold=0.45),
    loss=SegmentationLossConfig(target="tumour"),
    model=SegNetConfig(in_channels=1, channels=(4, 4, 8, 8, 8), head="binary"),
)
SPACING_MM = np.float32([[0.9, 1.1], [0.7, 0.55]])  # unlike in each direction and image

LOAD_WITH_ONLY_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf

in_file, out_file, *export_dirs = sys.argv[1:]
given, arrays = dict(np.load(in_file)), {}
for i, export_dir in enumerate(export_dirs):
    stored = (given[f"image_hu{i}"].astype(np.int32) + 32768).astype(np.uint16)
    slices = np.moveaxis(stored, -1, 1)[..., None]
    png = [[tf.io.encode_png(one).numpy() for one in stack] for stack in slices]
    all_inputs = {"image_hu": given[f"image_hu{i}"], "png": np.array(png, object)}
    all_inputs["spacing_mm"] = given["spacing_mm"]
    for function in tf.saved_model.load(export_dir).signatures.values():
        names = function.structured_input_signature[1]
        found = function(**{name: tf.constant(all_inputs[name]) for name in names})
        arrays |= {f"v2_{name}{i}": value.numpy() for name, value in found.items()}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], export_dir)
        served = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
        for signature in served.values():
            feeds = {info.name: all_inputs[name] for name, info in signature.inputs.items()}
            fetches = {f"v1_{name}{i}": info.name for name, info in signature.outputs.items()}
            arrays |= session.run(fetches, feeds)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"keras_cv", "lesionkeras"}, loaded
for key in [key for key, array in arrays.items() if array.dtype == object]:
    arrays[key] = np.stack([tf.io.decode_png(png)[..., 0].numpy() for png in arrays[key]])
np.savez(out_file, **arrays)
"""


def build_loud(recipe: SegmentationRecipe) -> keras.Model:
    """A network whose pixels disagree: all labels must occur."""
    keras.utils.set_random_seed(4)
    model = build(recipe.model)
    image_hu = make_image_hu(1, 64, 64)[..., : recipe.data.slices]
    alone = keras.Model(model.inputs[0], model.outputs[0])
    logits = np.asarray(alone(window_numpy(image_hu, recipe.data.window_hu)))
    mean, spread = logits.mean(axis=(0, 1, 2)), logits.std() / 3
    kernel, bias = model.get_layer("logits").variables
    bias.assign((bias - mean) / spread)
    kernel.assign(kernel / spread)
    return model


def predict_in_process(
    model: keras.Model,
    recipe: SegmentationRecipe,
    image_hu: np.ndarray,
    spacing_mm: tuple[float, float],
) -> np.ndarray:
    """Probabilities [H, W, 3] of one slice stack by the path of evaluation."""
    data = recipe.data
    grid = find_grid(image_hu.shape[:2], spacing_mm, data.image_size_px, data.pixel_mm)
    square = np.stack([place_hu(image_hu[..., i], grid) for i in range(data.slices)], axis=-1)
    image = window_numpy(square, data.window_hu)
    image = standardise_numpy(image) if data.normalisation == "standardise" else image
    prob = make_predictor(model, recipe.inference, recipe.loss.target)(image[None])[0]
    return to_slice(prob, grid, np.float32([1, 0, 0]))


def assert_mask(mask: np.ndarray, prob: np.ndarray, threshold: float | None) -> None:
    """Equal to the path of evaluation, but for ties within rounding."""
    want = decode_probabilities(prob, threshold or 0.0, is_binary=threshold is not None)
    ordered = np.sort(prob, axis=-1)
    margin = ordered[..., 2] - ordered[..., 1] if threshold is None else prob[..., 2] - threshold
    clear = abs(margin) > 1e-4
    assert clear.mean() > 0.99 and mask.dtype == np.uint8 and mask.shape == want.shape
    np.testing.assert_array_equal(mask[clear], want[clear])


@pytest.fixture(scope="module")
def networks() -> SimpleNamespace:
    return SimpleNamespace(three=build_loud(THREE_CLASS), binary=build_loud(BINARY))


@pytest.fixture(scope="module")
def functions(networks: SimpleNamespace) -> dict[str, dict]:
    return {
        "three": make_serving_functions(networks.three, THREE_CLASS),
        "binary": make_serving_functions(networks.binary, BINARY),
    }


@pytest.fixture(scope="module")
def served(networks: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Both exports, written, and run in a process that has TensorFlow alone."""
    folder = tmp_path_factory.mktemp("segmenters")
    images = [make_image_hu(2, 40, 47), make_image_hu(2, 61, 44)[..., :1], make_image_hu(2, 50, 33)]
    spacing = {"warmup_spacing_mm": (0.9, 1.1)}
    dirs = [
        export_segmenter(networks.three, THREE_CLASS, folder / "0", warmup_hu=images[0]),
        export_segmenter(networks.binary, BINARY, folder / "1", warmup_hu=images[1], **spacing),
    ]
    given = {f"image_hu{i}": image_hu for i, image_hu in enumerate(images)}
    np.savez(folder / "in.npz", spacing_mm=SPACING_MM, **given)
    (folder / "load.py").write_text(LOAD_WITH_ONLY_TENSORFLOW)
    run_python(folder / "load.py", folder / "in.npz", folder / "out.npz", *dirs)
    with np.load(folder / "out.npz") as arrays:
        return SimpleNamespace(dirs=dirs, images=images, arrays=dict(arrays))


CASES = [(0, "three", THREE_CLASS, None), (1, "binary", BINARY, 0.45)]


@pytest.mark.parametrize(("number", "name", "recipe", "threshold"), CASES, ids=["three", "binary"])
def test_fresh_process_with_only_tensorflow_gives_the_same_mask(
    served: SimpleNamespace,
    networks: SimpleNamespace,
    number: int,
    name: str,
    recipe: SegmentationRecipe,
    threshold: float | None,
):
    model, arrays = getattr(networks, name), served.arrays
    for i, image_hu in enumerate(served.images[number]):
        want = predict_in_process(model, recipe, image_hu, tuple(SPACING_MM[i].tolist()))
        for loader in ("v1", "v2"):
            mask = arrays[f"{loader}_mask{number}"][i]
            assert_mask(mask, want, threshold)
            assert len(np.unique(mask)) == (2 if threshold else 3)  # every label occurs
            tumour = arrays[f"{loader}_tumour_probability{number}"][i]
            np.testing.assert_allclose(tumour, want[..., 2], atol=1e-5)
            if threshold is None:
                liver = arrays[f"{loader}_liver_probability{number}"][i]
                np.testing.assert_allclose(liver, want[..., 1:].sum(axis=-1), atol=1e-5)
            np.testing.assert_array_equal(arrays[f"{loader}_mask_png_bytes{number}"][i], mask)


def test_runs_in_the_loader_of_tensorflow_serving(served: SimpleNamespace, tmp_path: Path):
    graph = saved_model_pb2.SavedModel.FromString((served.dirs[0] / "saved_model.pb").read_bytes())
    signature = graph.meta_graphs[0].signature_def["serving_default"]
    np.save(tmp_path / "in.npy", served.images[0])
    run_python(
        Path(__file__).with_name("run_with_c_api.py"),
        *(served.dirs[0], tmp_path / "in.npy", tmp_path / "out.npz"),
        *(signature.inputs["image_hu"].name, f"mask={signature.outputs['mask'].name}"),
    )
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.mean(arrays["mask"] != served.arrays["v2_mask0"]) < 0.01  # ties within rounding


def test_contract_is_checked_and_says_what_a_client_needs(served: SimpleNamespace):
    three, binary = (check_contract(folder) for folder in served.dirs)
    assert three["recipe_digest"] == digest(THREE_CLASS)
    assert three["labels"] == ["background", "liver", "tumour"]
    assert three["normalisation"] == "standardise" and three["pixel_mm"] == 0.0
    assert three["inference"]["flips"] is True and three["window_hu"] == [-100.0, 300.0]
    assert list(three["signatures"]["serving_default"]["inputs"]) == ["image_hu"]
    assert list(binary["signatures"]["serving_png"]["inputs"]) == ["png", "spacing_mm"]
    assert list(binary["signatures"]["serving_probability"]["outputs"]) == ["tumour_probability"]
    contract = served.dirs[1] / "contract.json"
    text = contract.read_text()
    changed = json.loads(text)
    changed["signatures"]["serving_default"]["inputs"]["spacing_mm"]["shape"] = [None, 3]
    try:
        contract.write_text(json.dumps(changed))
        with pytest.raises(ExportError, match=r"'inputs spacing_mm' differs.*\[None, 2\], wanted"):
            check_contract(served.dirs[1])
    finally:
        contract.write_text(text)


def test_warmup_asks_every_signature(served: SimpleNamespace):
    for folder, has_spacing in zip(served.dirs, (False, True), strict=True):
        records = list(tf.data.TFRecordDataset(str(folder / WARMUP_FILE)).as_numpy_iterator())
        signatures = (
            b"serving_default",
            b"serving_default",
            b"serving_probability",
            b"serving_png",
        )
        assert len(records) == len(signatures)
        for record, signature in zip(records, signatures, strict=True):
            assert signature in record and (b"spacing_mm" in record) == has_spacing


@pytest.mark.parametrize(("name", "recipe"), [("three", THREE_CLASS), ("binary", BINARY)])
def test_any_size_and_any_batch(functions: dict, name: str, recipe: SegmentationRecipe):
    serve = functions[name]
    for batch, height, width in ((3, 17, 90), (1, 1, 1), (0, 20, 30)):
        image_hu = tf.constant(
            make_image_hu(batch, height + 20, width + 20)[..., : recipe.data.slices]
        )
        image_hu = image_hu[:, :height, :width]
        inputs = [image_hu] + [tf.fill([batch, 2], 0.8)] * bool(recipe.data.pixel_mm)
        mask = serve["serving_default"](*inputs)["mask"]
        assert mask.shape == (batch, height, width) and mask.dtype == tf.uint8
        for tensor in serve["serving_probability"](*inputs).values():
            assert tensor.shape == (batch, height, width)
        for i in range(batch):  # an image's neighbours in a batch do not matter
            alone = serve["serving_default"](*(rows[i : i + 1] for rows in inputs))["mask"]
            assert np.mean(alone[0] != mask[i]) < 0.01  # ties within rounding
    none = [tf.zeros([0, recipe.data.slices], tf.string), *inputs[1:]]
    none[1:] = [rows[:0] for rows in none[1:]]
    assert serve["serving_png"](*none)["mask_png_bytes"].shape == (0,)


def test_spacing_that_is_no_spacing_is_refused(functions: dict):
    segment = functions["binary"]["serving_default"]
    image_hu = tf.zeros([1, 8, 8, 1], tf.int16)
    for wrong in (0.0, -0.7, 700.0, float("nan")):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be millimetres of a pixel"):
            segment(image_hu, tf.constant([[0.7, wrong]]))
    for rows in (0, 2):
        with pytest.raises(tf.errors.InvalidArgumentError, match="a row for each image"):
            segment(image_hu, tf.fill([rows, 2], 0.7))


def test_a_list_of_logits_is_read_at_full_resolution(networks: SimpleNamespace):
    config = dataclasses.replace(THREE_CLASS.model, depth=3, deep_supervision=1)
    recipe = dataclasses.replace(THREE_CLASS, model=config, inference=InferenceConfig())
    model = build_loud(recipe)
    image_hu = make_image_hu(1, 40, 40)
    mask = make_serving_functions(model, recipe)["serving_default"](tf.constant(image_hu))["mask"]
    alone = keras.Model(model.inputs, model.outputs[0])
    assert_mask(mask[0].numpy(), predict_in_process(alone, recipe, image_hu[0], (1, 1)), None)


def test_what_does_not_fit_is_named_and_nothing_written(networks: SimpleNamespace, tmp_path: Path):
    out_dir = tmp_path / "export"
    image_hu = make_image_hu(1, 40, 40)
    with pytest.raises(ExportError, match=r"found 3 channels in, 3 logits out, wanted 1 channels"):
        export_segmenter(networks.three, BINARY, out_dir, warmup_hu=image_hu)
    with pytest.raises(
        ExportError, match=r"found int16 \[1, 40, 40, 1\], wanted int16 \[B, H, W, 3"
    ):
        export_segmenter(networks.three, THREE_CLASS, out_dir, warmup_hu=image_hu[..., :1])
    with pytest.raises(ExportError, match=r"found int16 \[0, 40, 40, 3\]"):
        export_segmenter(networks.three, THREE_CLASS, out_dir, warmup_hu=image_hu[:0])
    assert not out_dir.exists()


def test_planes_a_common_distance_apart_are_made_of_any_odd_number_of_slices(
    networks: SimpleNamespace, tmp_path: Path
):
    """Slices 2 mm apart, planes 2.5 mm: between slices, and beyond the last that is given."""
    data = dataclasses.replace(THREE_CLASS.data, slice_mm=2.5, pixel_mm=1.6)
    recipe = dataclasses.replace(THREE_CLASS, data=data, inference=InferenceConfig())
    stack = np.concatenate([make_image_hu(1, 30, 36)] * 2, axis=-1)[..., :5]
    stack[..., 3:] += np.int16([10, -40])
    folder = export_segmenter(
        networks.three, recipe, tmp_path / "export", warmup_hu=stack[..., 1:4]
    )
    contract = check_contract(folder)
    assert contract["slice_mm"] == 2.5
    inputs = contract["signatures"]["serving_default"]["inputs"]
    assert inputs["image_hu"]["shape"] == [None] * 4 and inputs["spacing_mm"]["shape"] == [None, 3]
    assert "2.5 mm to each side" in inputs["image_hu"]["meaning"]
    assert "columns to the patient's left" in inputs["image_hu"]["orientation"]
    serve = tf.saved_model.load(str(folder)).signatures
    spacing_mm = tf.constant([[2.0, 1.0, 1.2]])
    grid = find_grid((30, 36), (1.0, 1.2), 32, 1.6)
    square = np.stack([place_hu(stack[0, ..., i], grid) for i in range(5)], -1).astype(float)
    share = 2.5 / 2.0 - 1
    planes = [(1 - share) * square[..., i] + share * square[..., j] for i, j in ((1, 0), (3, 4))]
    image = np.stack([planes[0], square[..., 2], planes[1]], axis=-1).round().astype(np.int16)
    unit = standardise_numpy(window_numpy(image, data.window_hu))
    prob = make_predictor(networks.three, recipe.inference, "tumour")(unit[None])[0]
    want = to_slice(prob, grid, np.float32([1, 0, 0]))
    mask = serve["serving_default"](image_hu=tf.constant(stack), spacing_mm=spacing_mm)["mask"]
    assert_mask(mask[0].numpy(), want, None)
    png = [[encode_stored_png(stack[0, ..., i]) for i in range(5)]]
    found = serve["serving_png"](png=tf.constant(png), spacing_mm=spacing_mm)["mask_png_bytes"]
    np.testing.assert_array_equal(tf.io.decode_png(found[0])[..., 0], mask[0])
    ended = take_planes(tf.constant(image[None]), tf.constant([1.0]), 5, 1.0)  # 3 slices, 5 planes
    np.testing.assert_array_equal(ended[0], image[..., [0, 0, 1, 2, 2]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="an odd number of slices"):
        serve["serving_default"](image_hu=tf.constant(stack[..., :4]), spacing_mm=spacing_mm)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be millimetres"):
        serve["serving_default"](image_hu=tf.constant(stack), spacing_mm=0 * spacing_mm)


def test_the_level_of_the_liver_is_asked_for_and_else_found_and_told(
    networks: SimpleNamespace, tmp_path: Path
):
    data = dataclasses.replace(THREE_CLASS.data, image_size_px=48, liver_hu=100.0)
    recipe = dataclasses.replace(THREE_CLASS, data=data, inference=InferenceConfig())
    images = make_image_hu(2, 48, 48)
    folder = export_segmenter(networks.three, recipe, tmp_path / "export", warmup_hu=images)
    contract = check_contract(folder)
    assert contract["level_hu"] == 100.0
    signature = contract["signatures"]["serving_default"]
    assert signature["inputs"]["liver_hu"]["shape"] == [None]
    assert list(signature["outputs"]) == ["mask", "liver_hu"]
    serve = tf.saved_model.load(str(folder)).signatures
    call = serve["serving_default"]
    given = call(image_hu=tf.constant(images), liver_hu=tf.constant([85.0, 117.5]))
    assert given["liver_hu"].numpy().tolist() == [85.0, 117.5]
    plain = dataclasses.replace(recipe, data=dataclasses.replace(data, liver_hu=0.0))
    for i, shift in enumerate((15, -18)):  # half to even
        moved = (images[i] + shift).clip(-1024, 3071).astype(np.int16)
        want = predict_in_process(networks.three, plain, moved, (1.0, 1.0))
        assert_mask(given["mask"][i].numpy(), want, None)

    found = call(image_hu=tf.constant(images), liver_hu=tf.constant([0.0, 117.5]))
    first = decode_probabilities(
        predict_in_process(networks.three, plain, images[0], (1.0, 1.0)), 0.0, False
    )
    liver = np.sort(images[0, ..., 1][first == 1])
    assert len(liver) >= 400
    level = float(liver[(len(liver) - 1) // 2])
    assert found["liver_hu"].numpy().tolist() == [level, 117.5]
    again = call(image_hu=tf.constant(images), liver_hu=tf.constant([level, 117.5]))
    np.testing.assert_array_equal(found["mask"], again["mask"])
    small = serve["serving_probability"](
        image_hu=tf.zeros([1, 1, 1, 3], tf.int16), liver_hu=tf.constant([0.0])
    )
    assert small["liver_hu"].numpy().tolist() == [0.0]
    assert sorted(small) == ["liver_hu", "liver_probability", "tumour_probability"]
    none = call(image_hu=tf.zeros([0, 9, 9, 3], tf.int16), liver_hu=tf.zeros([0]))
    assert none["mask"].shape == (0, 9, 9) and none["liver_hu"].shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a value for each image"):
        call(image_hu=tf.constant(images), liver_hu=tf.constant([85.0]))
    for wrong in (np.nan, 1100.0):  # such as stored values
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be the HU of a liver"):
            call(image_hu=tf.constant(images), liver_hu=tf.constant([85.0, wrong]))


def test_a_resnet50_unet_of_one_slice_is_exported_with_the_same_mask(tmp_path: Path):
    """P5's network: one slice that all three colours see, scaled as ImageNet's weights want it."""
    recipe = ResNet50UNetRecipe(
        name="p5",
        data=SegmentationDataConfig(image_size_px=32, slices=1),
        inference=InferenceConfig(flips=False),
        model=ResNet50UNetConfig(
            in_channels=1,
            head="binary",
            input_scaling="imagenet_caffe",
            decoder_channels=(16, 16, 8, 8, 8),
        ),
    )
    model = build_loud(recipe)
    image_hu = make_image_hu(2, 40, 47)[..., :1]
    folder = export_segmenter(model, recipe, tmp_path / "export", warmup_hu=image_hu)
    assert check_contract(folder)["signatures"]["serving_default"]["inputs"]["image_hu"][
        "shape"
    ] == [None, None, None, 1]
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    masks = serve(image_hu=tf.constant(image_hu))["mask"].numpy()
    for mask, slice_hu in zip(masks, image_hu, strict=True):
        assert_mask(mask, predict_in_process(model, recipe, slice_hu, (1.0, 1.0)), 0.5)
    assert np.unique(masks).tolist() == [0, 2]
