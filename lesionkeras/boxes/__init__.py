"""Box geometry: formats and overlap, anchors, matching, coding, suppression, anchor recall.

`lesionkeras.boxes.matching` and `lesionkeras.boxes.suppression` need Keras and are imported by
their own names; what is named here needs NumPy only.
"""

from lesionkeras.boxes.anchors import compute_map_size, make_anchors, num_anchors_per_cell
from lesionkeras.boxes.coding import decode_boxes, encode_boxes
from lesionkeras.boxes.overlap import (
    BOX_FORMATS,
    clip_boxes,
    compute_area,
    compute_intersection,
    compute_ioa,
    compute_iou,
    from_xyxy,
    to_xyxy,
)
from lesionkeras.boxes.recall import (
    AnchorRecall,
    RecallRow,
    compute_anchor_recall,
    compute_best_iou,
    compute_best_iou_on_grid,
    compute_grid_recall,
)

__all__ = [
    "BOX_FORMATS",
    "AnchorRecall",
    "RecallRow",
    "clip_boxes",
    "compute_anchor_recall",
    "compute_area",
    "compute_best_iou",
    "compute_best_iou_on_grid",
    "compute_grid_recall",
    "compute_intersection",
    "compute_ioa",
    "compute_iou",
    "compute_map_size",
    "decode_boxes",
    "encode_boxes",
    "from_xyxy",
    "make_anchors",
    "num_anchors_per_cell",
    "to_xyxy",
]
