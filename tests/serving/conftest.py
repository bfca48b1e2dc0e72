"""One tiny SSD, exported once for all tests of this folder."""

from types import SimpleNamespace

import numpy as np
import pytest

from lesionkeras.config import AnchorConfig, DataConfig, DecodeConfig, SSDConfig, SSDRecipe

LABELS = ("cyst", "metastasis")
TINY = SSDRecipe(
    name="tiny",
    data=DataConfig(image_size_px=64, window_hu=(-100.0, 300.0)),
    model=SSDConfig(
        num_classes=2,
        extra_channels=(8,),
        top_down_channels=8,
        head_channels=0,
        prior_prob=0.2,
        anchors=AnchorConfig(strides_px=(8, 16)),
    ),
    decode=DecodeConfig(score_threshold=0.05, candidates=40, max_detections=12),
)


def make_image_hu(batch: int, height_px: int, width_px: int) -> np.ndarray:
    """Smooth soft tissue with bright and dark discs: neighbouring boxes get unlike scores."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:height_px, :width_px]
    image = np.full((batch, height_px, width_px, 3), 60.0)
    for i in range(batch):
        for radius in (6, 9, 14):
            cy, cx = random.uniform(10, height_px - 10), random.uniform(10, width_px - 10)
            image[i, (y - cy) ** 2 + (x - cx) ** 2 < radius**2] += random.choice([-90.0, 150.0])
    return (image + random.normal(0, 12, image.shape)).round().astype(np.int16)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    import keras

    from lesionkeras.models.ssd import build_ssd
    from lesionkeras.serving.export import export_detector

    keras.utils.set_random_seed(5)
    model = build_ssd(TINY.model, TINY.match, TINY.loss, TINY.decode)
    random = np.random.default_rng(5)
    for variable in model.variables:  # louder heads: scores must differ
        if variable.path.startswith(("class", "box")):
            variable.assign(variable + random.normal(0, 0.2, variable.shape))
    out_dir = tmp_path_factory.mktemp("run") / "export"
    for leftover in ("1", ".1.partial", ".1.old"):  # of an earlier export, and of a killed one
        (out_dir / leftover).mkdir(parents=True)
        (out_dir / leftover / "leftover").touch()
    image_hu = make_image_hu(2, 96, 128)
    export_dir = export_detector(
        model,
        TINY,
        out_dir,
        operating_threshold=0.37,
        warmup_hu=image_hu,
        labels=LABELS,
        metadata={"git_commit": "abc"},
    )
    return SimpleNamespace(
        model=model, recipe=TINY, labels=LABELS, dir=export_dir, image_hu=image_hu
    )


@pytest.fixture(scope="session")
def python_detections(exported: SimpleNamespace) -> dict[str, np.ndarray]:
    """The path of evaluation: resize, window, detect in Python; boxes scaled by hand."""
    from lesionkeras.ct.window import resize_hu_graph, window_numpy

    resized_hu = resize_hu_graph(exported.image_hu, (64, 64)).numpy()
    found = exported.model.detect(window_numpy(resized_hu, (-100.0, 300.0)))
    found = {name: np.asarray(value) for name, value in found.items()}
    found["boxes"] = found["boxes"] * np.float32([128 / 64, 96 / 64, 128 / 64, 96 / 64])
    return found
