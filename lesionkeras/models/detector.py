"""What every detector can do, whatever network is in it."""

from __future__ import annotations

from typing import Any, Protocol


class Detector(Protocol):
    """A keras.Model that knows its loss and decodes its own outputs, such as `models.ssd.SSD`.

    It is called on image_unit, float [B, H, W, 3] in 0..1, and gives a dict of raw outputs; parts
    of its loss are keras.metrics.Mean.  One with anchors also has `anchors(height_px, width_px)`,
    float32 [A, 4] xyxy px.
    """

    def __hash__(self) -> int:
        """Return the same number for one model for as long as it lives."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of a batch, a float32 scalar.

        Args:
            x: image_unit, H and W static.
            y: {"boxes": float32 [B, M, 4] xyxy px of x, "classes": int32 [B, M], padding -1}.
            y_pred: The raw outputs.
            sample_weight: Not used.
            training: Not used.
        """

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return detections of images of one static size.

        Args:
            image_unit: float32 [B, H, W, 3] in 0..1; H and W static.

        Returns:
            `boxes` float32 [B, D, 4] px of the input, `scores` float32 [B, D] descending,
            `classes` int32 [B, D] (-1 is padding), `num_detections` int32 [B].
        """
