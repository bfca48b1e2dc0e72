"""Scores of detections (here) and of masks (`volumes`) against truth; no TensorFlow."""

from lesionkeras.metrics.bootstrap import Interval, bootstrap_by_patient
from lesionkeras.metrics.coco import CocoResult, evaluate_coco
from lesionkeras.metrics.evaluation import evaluate_detections
from lesionkeras.metrics.matches import ImageDetections, ImageTruth
from lesionkeras.metrics.operating import compute_operating_point, compute_precision_recall

__all__ = [
    "CocoResult",
    "ImageDetections",
    "ImageTruth",
    "Interval",
    "bootstrap_by_patient",
    "compute_operating_point",
    "compute_precision_recall",
    "evaluate_coco",
    "evaluate_detections",
]
