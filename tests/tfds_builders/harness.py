"""What must hold for every prepared detection data set; a builder's test calls `check_prepared`."""

import cv2
import numpy as np

from tfds_builders.detection import detection_features


def check_prepared(builder) -> dict[str, list[dict]]:
    """Check every example of every split, and return them as NumPy."""
    shared = detection_features()
    features = builder.info.features
    for name, feature in shared.items():
        assert name in features
        if name == "lesions":
            assert set(feature.feature) <= set(features[name].feature)
        else:
            assert (features[name].shape, features[name].dtype) == (feature.shape, feature.dtype)
    splits = {
        split: list(builder.as_dataset(split=split).as_numpy_iterator())
        for split in builder.info.splits
    }
    patients = {split: {example["patient"] for example in it} for split, it in splits.items()}
    for first in patients:
        for second in patients:
            assert first == second or not patients[first] & patients[second]
    examples = [example for it in splits.values() for example in it]
    files = [example["file"] for example in examples]
    assert len(set(files)) == len(files)
    for example in examples:
        check_example(example)
    return splits


def check_example(example: dict) -> None:
    height, width = example["size_px"]
    assert example["patient"] and example["file"] and example["slice"] >= 0
    assert np.all(example["spacing_mm"] > 0)
    key = decode(example["png_key"])
    assert key.dtype == np.uint16 and key.shape == (height, width)
    for name in ("previous", "next"):
        assert bool(example[f"png_{name}"]) == example[f"has_{name}"]
        if example[f"has_{name}"]:
            neighbour = decode(example[f"png_{name}"])
            assert neighbour.dtype == np.uint16 and neighbour.shape == (height, width)
    if example["mask_png"]:
        mask = decode(example["mask_png"])
        assert mask.dtype == np.uint8 and mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 1, 2}
    bbox = example["lesions"]["bbox"]
    assert bbox.shape == (len(example["lesions"]["label"]), 4)
    assert np.all(bbox >= 0) and np.all(bbox <= 1)
    assert np.all(bbox[:, :2] < bbox[:, 2:])
    assert np.all(example["lesions"]["label"] == 0)


def decode(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def read_boxes_px(example: dict) -> np.ndarray:
    """Boxes as float64 xyxy px."""
    height, width = example["size_px"]
    y1, x1, y2, x2 = example["lesions"]["bbox"].astype(np.float64).T
    return np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
