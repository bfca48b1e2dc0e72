import io
import json

import numpy as np

from lesionkeras.training.monai_unet import serve


def test_questions_are_answered_with_seconds_and_results(tmp_path):
    seen = []

    def infer(images):
        seen.append(images)
        return images * 2

    images = np.arange(3.0).reshape(3, 1, 1, 1)
    file = tmp_path / "logits.npy"
    questions = [
        {"variant": "a", "batch": 2, "steps": 3},
        {"variant": "a", "batch": 5, "steps": 1, "file": str(file)},
    ]
    answers = io.StringIO()
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    serve({"a": infer}, images, {"engine": "x"}, io.StringIO(lines), answers)
    first, *rest = map(json.loads, answers.getvalue().splitlines())
    assert first == {"engine": "x"} and len(rest) == 2
    assert all(answer["seconds"] >= 0 and answer["cpu_seconds"] >= 0 for answer in rest)
    assert [len(batch) for batch in seen] == [2, 2, 2, 5]
    assert np.load(file).ravel().tolist() == [0, 2, 4, 0, 2]  # images come again
