"""The feature schema that all detection data sets share, so that one pipeline reads them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

LESION_LABEL = 0  # the one lesion class; DESIGN 4: background is implicit


def detection_features(
    extra: dict[str, Any] | None = None, lesion_extra: dict[str, Any] | None = None
) -> tfds.features.FeaturesDict:
    """Return the features of one image with its lesions.

    Per image: `png_previous`, `png_key`, `png_next` are 16-bit grey PNG files as bytes (stored =
    HU + 32768), `b""` where a slice is missing, which `has_previous` and `has_next` also say;
    `mask_png` is an 8-bit grey PNG of 0 background, 1 liver, 2 lesion, `b""` where there is none;
    `size_px` int32 (height, width); `spacing_mm` float32 (z, y, x); `patient` and `file` name the
    source; `slice` int32 is the number of the key slice.  `lesions` holds one row a box: `bbox`
    float32 relative yxyx of half-open pixels, `label` int64.

    Args:
        extra: Features of the image beyond these.
        lesion_extra: Features of each lesion beyond `bbox` and `label`.

    Returns:
        The features for `tfds.core.DatasetInfo`.

    >>> sorted(detection_features(lesion_extra={"noisy": np.bool_})["lesions"].feature)
    ['bbox', 'label', 'noisy']
    """
    lesion = {"bbox": tfds.features.BBoxFeature(), "label": np.int64, **(lesion_extra or {})}
    return tfds.features.FeaturesDict(
        {
            "png_previous": tfds.features.Tensor(shape=(), dtype=np.str_),
            "png_key": tfds.features.Tensor(shape=(), dtype=np.str_),
            "png_next": tfds.features.Tensor(shape=(), dtype=np.str_),
            "has_previous": np.bool_,
            "has_next": np.bool_,
            "mask_png": tfds.features.Tensor(shape=(), dtype=np.str_),
            "lesions": tfds.features.Sequence(lesion),
            "size_px": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            "spacing_mm": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "patient": tfds.features.Text(),
            "file": tfds.features.Text(),
            "slice": np.int32,
            **(extra or {}),
        }
    )
