"""What every detector can do, whatever network is in it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Protocol, Self

import keras

from lesionkeras.recipe import from_json


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
            training: Whether a second stage's norms and dropout work as in training.
        """

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return detections of images of one static size.

        Args:
            image_unit: float32 [B, H, W, 3] in 0..1; H and W static.

        Returns:
            `boxes` float32 [B, D, 4] px of the input, `scores` float32 [B, D] descending,
            `classes` int32 [B, D] (-1 is padding), `num_detections` int32 [B].
        """


class PredictsDetections:
    """Mixed in before keras.Model: `predict` gives detections, not raw outputs."""

    def predict_step(self, data: Any) -> dict[str, Any]:
        """Return what `detect` gives for a batch; Keras calls this."""
        image_unit, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        found: dict[str, Any] = self.detect(image_unit)  # type: ignore[attr-defined]
        return found


class FromSettings(PredictsDetections):
    """Mixed in before keras.Model: a network that is made of dataclasses, saved as plain values."""

    # Argument of the constructor -> attribute that holds it, its class.
    settings: ClassVar[dict[str, tuple[str, type]]]
    name: str

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument as plain values."""
        held = {name: getattr(self, attribute) for name, (attribute, _) in self.settings.items()}
        return {name: asdict(value) for name, value in held.items()} | {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Build the model that `get_config` described."""
        held: dict[str, Any] = {
            name: from_json(config[name], kind) for name, (_, kind) in cls.settings.items()
        }
        return cls(**held, **{"name": config["name"]})
