"""A small example client for TensorFlow Serving's REST interface; needs no TensorFlow.

    docker run -p 8501:8501 -e MODEL_NAME=ssd -v "$PWD/runs/NAME/export:/models/ssd" IMAGE

    from lesionkeras.serving.client import predict_png
    lesions = predict_png("http://localhost:8501/v1/models/ssd", [previous, key, next])

IMAGE is tensorflow/serving.  An example: one request, no retries, no authentication.  Prefer
`predict_png` (about 0.5 MB for three slices); `predict` sends every number as JSON text.  A
segmentation network is asked by `segment_png`, whose answer is a PNG of some kilobytes.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from lesionkeras.errors import LesionKerasError


def predict(
    url: str,
    image_hu: np.ndarray,
    timeout_s: float = 60.0,
    spacing_mm: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Finds lesions in CT slices.

    Args:
        url: The model's address, for example "http://localhost:8501/v1/models/ssd".
        image_hu: int16 [B, H, W, 3], HU: previous, key and next slice.
        timeout_s: Seconds to wait for an answer.
        spacing_mm: [B, 2], height and width of a pixel, where the contract asks for it.

    Returns:
        For each image a dict of boxes [D, 4] (xyxy px of the image), scores [D], classes [D].

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    inputs = {"image_hu": image_hu.tolist()}
    if spacing_mm is not None:
        inputs["spacing_mm"] = np.asarray(spacing_mm).tolist()
    return _read(url, _post(url, "serving_default", inputs, timeout_s), _cut_padding)


def predict_png(
    url: str,
    slices: list[bytes],
    timeout_s: float = 60.0,
    spacing_mm: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Finds lesions in one slice stack given as files.

    Args:
        url: As in `predict`.
        slices: Bytes of three 16-bit grey PNGs (stored = HU + 32768): previous, key and next slice;
            `b""` for a missing neighbour.
        timeout_s: As in `predict`.
        spacing_mm: Height and width of a pixel, where the contract asks for it.

    Returns:
        One dict as in `predict`.

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    inputs = _describe_stack(slices, spacing_mm, None)
    return _read(url, _post(url, "serving_png", inputs, timeout_s), _cut_padding)[0]


def segment_png(
    url: str,
    slices: list[bytes],
    spacing_mm: tuple[float, ...] | None = None,
    timeout_s: float = 60.0,
    liver_hu: float | None = None,
) -> np.ndarray:
    """Segments one slice stack given as files.

    Args:
        url: As in `predict`.
        slices: Bytes of 16-bit grey PNGs (stored = HU + 32768), as many as the contract says, the
            key slice in the middle; `b""` for a missing neighbour.  Rows follow each other to the
            patient's back, columns to the patient's left.
        spacing_mm: Height and width of a pixel, before them from slice to slice, as the contract
            asks for it.
        timeout_s: As in `predict`.
        liver_hu: Median of the scan's liver, where the contract asks for it; 0: not known.

    Returns:
        uint8 [H, W]: 0 background, 1 liver, 2 tumour.

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    inputs = _describe_stack(slices, spacing_mm, liver_hu)
    return _read(url, _post(url, "serving_png", inputs, timeout_s), _decode_mask)


def look_for_liver(
    url: str,
    slices: list[bytes],
    spacing_mm: tuple[float, ...] | None = None,
    timeout_s: float = 60.0,
) -> float:
    """Asks for the level of the liver in one slice stack, of a network that wants to know it.

    Args:
        url: As in `predict`.
        slices: As in `segment_png`.
        spacing_mm: As in `segment_png`.
        timeout_s: As in `predict`.

    Returns:
        Median of the liver, HU; 0 where too little of it is found.  The median of what some slices
        of a scan say, without the zeros, is the scan's `liver_hu` of `segment_png`.

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    found = _post(url, "serving_png", _describe_stack(slices, spacing_mm, 0.0), timeout_s)
    return _read(url, found, lambda outputs: float(outputs["liver_hu"][0]))


def _describe_stack(
    slices: list[bytes], spacing_mm: tuple[float, ...] | None, liver_hu: float | None
) -> dict[str, Any]:
    inputs: dict[str, Any] = {"png": [_encode(slices)]}
    if spacing_mm is not None:
        inputs["spacing_mm"] = [list(spacing_mm)]
    if liver_hu is not None:
        inputs["liver_hu"] = [liver_hu]
    return inputs


def _encode(slices: list[bytes]) -> list[dict[str, str]]:
    return [{"b64": base64.b64encode(png).decode()} for png in slices]


def _cut_padding(outputs: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: np.array(outputs[name][i][:count]) for name in ("boxes", "scores", "classes")}
        for i, count in enumerate(outputs["num_detections"])
    ]


def _decode_mask(outputs: Any) -> np.ndarray:
    # REST gives the only output of a signature without its name.
    (png,) = outputs["mask_png_bytes"] if isinstance(outputs, dict) else outputs
    pixels = np.frombuffer(base64.b64decode(png["b64"], validate=True), np.uint8)
    mask = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED) if pixels.size else None
    if mask is None:
        raise ValueError("the mask is no PNG")
    return mask


def _read(url: str, outputs: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(outputs)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LesionKerasError(
            "The answer is not this network's",
            where=url,
            found=repr(error),
            next_step="compare it with the contract.json of the export",
        ) from error


def _post(url: str, signature: str, inputs: dict, timeout_s: float) -> Any:
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        answer = error.read().decode(errors="replace")
        raise LesionKerasError(
            "The server refused the request",
            where=url,
            found=" ".join(answer.split()),
            next_step="compare it with the contract.json of the export",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise LesionKerasError(
            "The answer is not TensorFlow Serving's",
            where=url,
            found=repr(error),
            wanted='JSON with "outputs"',
            next_step="see that the address ends with /v1/models/NAME",
        ) from error
    except OSError as error:
        raise LesionKerasError(
            "The server cannot be reached", where=url, found=str(error), next_step="start it"
        ) from error
