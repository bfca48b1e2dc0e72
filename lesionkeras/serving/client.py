"""A small example client for TensorFlow Serving's REST interface; needs no TensorFlow.

    docker run -p 8501:8501 -e MODEL_NAME=ssd -v "$PWD/runs/NAME/export:/models/ssd" IMAGE

    from lesionkeras.serving.client import predict_png
    lesions = predict_png("http://localhost:8501/v1/models/ssd", [previous, key, next])

IMAGE is tensorflow/serving.  An example: one request, no retries, no authentication.  Prefer
`predict_png` (about 0.5 MB for three slices); `predict` sends every number as JSON text.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from lesionkeras.errors import LesionKerasError


def predict(url: str, image_hu: np.ndarray, timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """Finds lesions in CT slices.

    Args:
        url: The model's address, for example "http://localhost:8501/v1/models/ssd".
        image_hu: int16 [B, H, W, 3], HU: previous, key and next slice.
        timeout_s: Seconds to wait for an answer.

    Returns:
        For each image a dict of boxes [D, 4] (xyxy px of the image), scores [D], classes [D].

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    return _post(url, "serving_default", {"image_hu": image_hu.tolist()}, timeout_s)


def predict_png(url: str, slices: list[bytes], timeout_s: float = 60.0) -> dict[str, Any]:
    """Finds lesions in one slice stack given as files.

    Args:
        url: As in `predict`.
        slices: Bytes of three 16-bit grey PNGs (stored = HU + 32768): previous, key and next slice;
            `b""` for a missing neighbour.
        timeout_s: As in `predict`.

    Returns:
        One dict as in `predict`.

    Raises:
        LesionKerasError: The server cannot be reached or refuses the request.
    """
    encoded = [{"b64": base64.b64encode(png).decode()} for png in slices]
    return _post(url, "serving_png", {"png": [encoded]}, timeout_s)[0]


def _post(url: str, signature: str, inputs: dict, timeout_s: float) -> list[dict[str, Any]]:
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            outputs = json.load(response)["outputs"]
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
    return [
        {name: np.array(outputs[name][i][:count]) for name in ("boxes", "scores", "classes")}
        for i, count in enumerate(outputs["num_detections"])
    ]
