"""The pictures of a segmentation run show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from lesionkeras.report import segmentation_figures
from lesionkeras.report.figures import BLUE, ORANGE, PREDICTION, RED, TRUTH
from lesionkeras.report.segmentation_figures import (
    _find_view,
    draw_contours,
    draw_curves,
    draw_lesion_sizes,
)
from tests.report.made_segmentation import make_examples, make_log
from tests.report.test_figures import count_pixels

WINDOW_HU = (-160.0, 240.0)


def test_truth_and_prediction_have_their_own_colours() -> None:
    example = make_examples(64)[0]
    nothing = np.zeros_like(example["truth"])
    both = draw_contours([example], WINDOW_HU)
    missed = draw_contours([example | {"prediction": nothing}], WINDOW_HU)
    false = draw_contours([example | {"truth": nothing}], WINDOW_HU)
    legend = draw_contours([], WINDOW_HU)
    for png, color in ((missed, PREDICTION), (false, TRUTH)):
        assert abs(count_pixels(png, color) - count_pixels(legend, color)) < 40
    for color in (TRUTH, PREDICTION):
        assert count_pixels(both, color) > count_pixels(legend, color) + 400


def test_slices_without_any_mask_are_drawn_whole() -> None:
    example = make_examples(64)[0]
    nothing = np.zeros_like(example["truth"])
    empty = draw_contours([example | {"truth": nothing, "prediction": nothing}], WINDOW_HU)
    assert count_pixels(empty, "black") > 1000  # the air about the patient


def test_view_is_a_square_in_millimetres_about_what_is_shown() -> None:
    shown = np.zeros((100, 100), bool)
    shown[10:90, 40:60] = True  # 160 mm high, 20 mm wide at 2 mm by 1 mm
    left, right, top, bottom = _find_view(shown, 2.0, 1.0)
    assert (left, right) == (50 - 92, 50 + 92) and (top, bottom) == (100 - 92, 100 + 92)
    shown[:] = False
    shown[50, 45] = True  # one pixel is seen with its surroundings
    assert _find_view(shown, 2.0, 1.0) == (45.5 - 42, 45.5 + 42, 101 - 42, 101 + 42)
    shown[:] = False
    shown[99, 20] = True  # at the border the view lies inside the image
    assert _find_view(shown, 2.0, 1.0) == (0, 84, 200 - 84, 200)


def test_curves_show_what_was_validated() -> None:
    log = make_log(10)
    unvalidated = [{"epoch": row["epoch"], "loss": row["loss"]} for row in log]
    full, bare = draw_curves(log), draw_curves(unvalidated)
    assert count_pixels(full, RED) > 100 and count_pixels(full, ORANGE) > 100
    assert count_pixels(bare, RED) == count_pixels(bare, ORANGE) == 0
    assert count_pixels(bare, BLUE) > 100
    cells = [{name: str(value) for name, value in row.items()} for row in log]
    assert draw_curves(cells) == full  # as a CSV gives them


def test_lesions_that_were_not_found_are_crosses_at_zero() -> None:
    found = {"volume_mm3": 1000.0, "dice": 0.8, "detected": True}
    missed = {"volume_mm3": 50.0, "dice": None, "detected": False}
    only_found, both = draw_lesion_sizes([found]), draw_lesion_sizes([found, missed])
    assert count_pixels(only_found, RED) == 0 and count_pixels(both, RED) > 0
    assert draw_lesion_sizes([found, missed]) == both
    assert len(draw_lesion_sizes([])) > 1000  # a run without a lesion


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_the_legend_of_contours_lies_within_the_picture(columns, monkeypatch):
    kept = []
    monkeypatch.setattr(segmentation_figures, "to_png", lambda figure: kept.append(figure) or b"")
    mask = np.zeros((8, 8), np.uint8)
    example = {"image_hu": mask.astype(np.int16), "truth": mask, "prediction": mask}
    draw_contours([example | {"spacing_mm": (1.0, 1.0)}] * columns, WINDOW_HU)
    (figure,) = kept
    figure.canvas.draw()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.x1 <= whole.x1 and box.width > 100
