"""The client against a stand-in that speaks TensorFlow Serving's REST format, not TF Serving."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import cv2
import numpy as np
import pytest

from lesionkeras.errors import LesionKerasError
from lesionkeras.serving.client import look_for_liver, predict, predict_png, segment_png

BOXES = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [0.0, 0.0, 0.0, 0.0]]
MASK = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
ONE_IMAGE = {
    "boxes": [BOXES],
    "scores": [[0.9, 0.5, 0.0]],
    "classes": [[0, 1, -1]],
    "num_detections": [2],
}


class Handler(BaseHTTPRequestHandler):
    received: ClassVar[list[tuple[str, dict]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, body))
        values = next(iter(body["inputs"].values()))
        if self.path == "/else:predict":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")
            return
        status, answer = 200, {name: rows * len(values) for name, rows in ONE_IMAGE.items()}
        if "unet" in self.path:  # as TensorFlow Serving answers: one output, without its name
            png = cv2.imencode(".png", MASK)[1].tobytes()
            answer = [{"b64": base64.b64encode(png).decode()}]
        if "level" in self.path:
            png = cv2.imencode(".png", MASK)[1].tobytes()
            png_b64 = {"b64": base64.b64encode(png).decode()}
            answer = {"mask_png_bytes": [png_b64], "liver_hu": [91.5]}
        if values == []:
            status, answer = 400, {"error": "Tensor :0 is empty"}
        self.send_response(status)
        self.end_headers()
        payload = {"outputs": answer} if status == 200 else answer
        self.wfile.write(json.dumps(payload).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.received.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/models/ssd"
    server.shutdown()
    server.server_close()


def test_predict_sends_hu_and_drops_padding(url: str):
    image_hu = np.arange(2 * 2 * 1 * 3, dtype=np.int16).reshape(2, 2, 1, 3) - 5
    found = predict(url, image_hu)
    ((path, body),) = Handler.received
    assert path == "/v1/models/ssd:predict"
    assert body == {"signature_name": "serving_default", "inputs": {"image_hu": image_hu.tolist()}}
    assert len(found) == 2
    np.testing.assert_array_equal(found[1]["boxes"], BOXES[:2])
    np.testing.assert_array_equal(found[1]["scores"], [0.9, 0.5])
    np.testing.assert_array_equal(found[1]["classes"], [0, 1])


def test_predict_png_sends_bytes_in_base64(url: str):
    found = predict_png(url, [b"", b"\x89PNG", b"next"])
    ((_, body),) = Handler.received
    assert body["signature_name"] == "serving_png"
    sent = [base64.b64decode(item["b64"]) for item in body["inputs"]["png"][0]]
    assert sent == [b"", b"\x89PNG", b"next"]
    np.testing.assert_array_equal(found["boxes"], BOXES[:2])


def test_segment_png_gives_the_mask(url: str):
    url = url.replace("ssd", "unet")
    np.testing.assert_array_equal(segment_png(url, [b"", b"key", b"next"], (0.7, 0.8)), MASK)
    segment_png(url, [b"key"])
    (path, body), (_, without) = Handler.received
    assert path == "/v1/models/unet:predict" and body["signature_name"] == "serving_png"
    assert [base64.b64decode(item["b64"]) for item in body["inputs"]["png"][0]] == [
        b"",
        b"key",
        b"next",
    ]
    assert body["inputs"]["spacing_mm"] == [[0.7, 0.8]] and list(without["inputs"]) == ["png"]


def test_the_level_of_the_liver_is_asked_for_and_sent(url: str):
    url = url.replace("ssd", "level")
    stack = [b"a", b"b", b"c"]
    assert look_for_liver(url, stack, (2.5, 0.7, 0.8)) == 91.5
    np.testing.assert_array_equal(segment_png(url, stack, (2.5, 0.7, 0.8), liver_hu=91.5), MASK)
    first, second = (body["inputs"] for _, body in Handler.received)
    assert first["spacing_mm"] == second["spacing_mm"] == [[2.5, 0.7, 0.8]]
    assert (first["liver_hu"], second["liver_hu"]) == ([0.0], [91.5])
    with pytest.raises(LesionKerasError, match="answer is not this network's"):
        look_for_liver(url.replace("level", "unet"), stack)


def test_another_network_is_said(url: str):
    with pytest.raises(LesionKerasError, match=r"answer is not this network's in .*ssd: found Key"):
        segment_png(url, [b"key"])
    with pytest.raises(LesionKerasError, match=r"answer is not this network's in .*unet"):
        predict_png(url.replace("ssd", "unet"), [b"key"] * 3)


def test_refusal_and_silence_are_said(url: str):
    said = r"refused the request in .*Tensor :0 is empty.*; compare it with the contract\.json"
    with pytest.raises(LesionKerasError, match=said):
        predict(url, np.zeros((0, 2, 2, 3), np.int16))
    other = url.removesuffix("/v1/models/ssd") + "/else"
    with pytest.raises(LesionKerasError, match=r"not TensorFlow Serving's in .*/v1/models/NAME\."):
        predict(other, np.zeros((1, 2, 2, 3), np.int16))
    with pytest.raises(LesionKerasError, match="The server cannot be reached in http://127"):
        predict("http://127.0.0.1:9/v1/models/ssd", np.zeros((1, 2, 2, 3), np.int16))


def test_spacing_is_sent_where_it_is_given(url: str):
    spacing_mm = np.array([[0.5, 0.75], [1.0, 1.25]])
    predict(url, np.zeros((2, 4, 4, 3), np.int16), spacing_mm=spacing_mm)
    predict_png(url, [b"a", b"b", b"c"], spacing_mm=(0.5, 0.75))
    sent = [body["inputs"]["spacing_mm"] for _, body in Handler.received]
    assert sent == [spacing_mm.tolist(), [[0.5, 0.75]]]
