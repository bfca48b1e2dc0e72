"""P2's baseline: two convolutions, pooling, two convolutions, pooling, a dense layer, one box.

The paper, 4.1 and 4.2: "2 convolutional layers and a pooling layer, followed by 2 convolutional
layers, a pooling layer, and a dense layer with 4 outputs for the bounding box"; ReLU; the mean
squared error of the four coordinates.  With a front end VGG16's map after block 2, 3 or 4 stands in
the image's place.  With the concatenation VGG16 without its last two poolings (64x64x512 of a
512x512 image) is upsampled to 512x512x512 and stands beside the image.

Differs: the widths are in a figure that the text does not repeat; coordinates are in sides of the
image, as its errors (.00077 and .065) say; the upsampled map never exists whole (`upsampled_conv`).
P2's images have one lesion each: here the largest is the target, and an image without one teaches
nothing.  The network always says one box, with score 1.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from lesionkeras.boxes.overlap import clip_boxes, compute_area
from lesionkeras.boxes.targets import fix_rows
from lesionkeras.config import BaselineCNNConfig, BaselineCNNRecipe, DecodeConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models.blocks import check_side
from lesionkeras.models.detector import PredictsDetections
from lesionkeras.models.input_scaling import scale_input
from lesionkeras.models.upsampled_conv import UpsampledConv2D
from lesionkeras.models.vgg16 import build_vgg16
from lesionkeras.recipe import from_json

NUM_POOLS = 2  # of the baseline
CONCAT_POOLS = 3  # of VGG16's five


def check_baseline_cnn(recipe: BaselineCNNRecipe) -> None:
    """Check that images have one size, and weights a place.

    Args:
        recipe: Of a network of one box.

    Raises:
        RecipeError: It crops, or has weights without a front end.
    """
    if recipe.augment.mode == "online" and recipe.augment.crop_size_px:
        raise RecipeError(
            "A dense layer sees images of one size",
            where="augment.crop_size_px",
            found=str(recipe.augment.crop_size_px),
            wanted="0",
            next_step="set augment.crop_size_px=0",
        )
    if recipe.model.frontend == "none" and recipe.model.weights != "none":
        raise RecipeError(
            "Weights have no place in the network",
            where="model.weights",
            found=f"{recipe.model.weights} without a front end",
            wanted="none",
            next_step="set model.frontend=vgg16 or vgg16_concat, or model.weights=none",
        )


def _convolve(x: Any, channels: int, name: str) -> Any:
    conv = keras.layers.Conv2D(
        channels, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
    return conv(x)


def _pool(x: Any, config: BaselineCNNConfig, name: str) -> Any:
    x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    return keras.layers.Dropout(config.dropout, name=f"{name}_drop")(x) if config.dropout else x


def _start(scaled: Any, config: BaselineCNNConfig) -> Any:
    """The first convolution over whatever the front end gives."""
    if config.frontend == "none":
        return _convolve(scaled, config.channels[0], "conv1")
    is_concat = config.frontend == "vgg16_concat"
    blocks = 5 if is_concat else config.vgg_block
    vgg16 = build_vgg16(blocks, CONCAT_POOLS if is_concat else blocks)
    vgg16.trainable = config.train_vgg
    features = vgg16(scaled)
    if not is_concat:
        return _convolve(features, config.channels[0], "conv1")
    conv = UpsampledConv2D(config.channels[0], config.upsampling, name="conv1")
    return keras.layers.ReLU(name="conv1_relu")(conv([features, scaled]))


def _network(config: BaselineCNNConfig, side_px: int) -> tuple[Any, dict[str, Any]]:
    pools = {"none": 0, "vgg16": config.vgg_block, "vgg16_concat": CONCAT_POOLS}[config.frontend]
    multiple_px = 2 ** max(pools, NUM_POOLS)
    check_side(multiple_px, side_px)
    image_unit = keras.Input((side_px, side_px, 3), name="image_unit")
    x = _start(scale_input(image_unit, config.input_scaling), config)
    x = _pool(_convolve(x, config.channels[1], "conv2"), config, "first")
    x = _convolve(_convolve(x, config.channels[2], "conv3"), config.channels[3], "conv4")
    x = keras.layers.Flatten(name="flatten")(_pool(x, config, "second"))
    # float32 under every policy: at 400 of 512 px bfloat16 moves by 2 px
    return image_unit, {"box_unit": keras.layers.Dense(4, dtype="float32", name="box_unit")(x)}


@keras.saving.register_keras_serializable("lesionkeras")
class BaselineCNN(PredictsDetections, keras.Model):
    """A network of one box that knows its loss and decoding.

    Calling it maps image_unit float [B, S, S, 3] in 0..1 to `box_unit` [B, 4], xyxy in sides of the
    image.  `fit` wants targets {"boxes": float32 [B, M, 4] px, "classes": int32 [B, M], padding
    -1}.

    Args:
        config: The network.
        side_px: S; the dense layer has as many weights as there are pixels.
        decode: Rows of the detections.
        name: The model's name.

    Raises:
        RecipeError: The input scaling is not known, or the side does not divide.

    Source: P2, 4.1 and 4.2.
    """

    def __init__(
        self,
        config: BaselineCNNConfig,
        side_px: int = 512,
        decode: DecodeConfig | None = None,
        name: str = "baseline_cnn",
        **kwargs: Any,
    ) -> None:
        inputs, outputs = _network(config, side_px)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.baseline_config, self.side_px = config, side_px
        self.decode = decode or BaselineCNNRecipe().decode
        self.box_loss = keras.metrics.Mean(name="box_loss")

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean squared error of the boxes of images with a lesion, float32 scalar."""
        y = fix_rows(y)
        boxes = ops.cast(y["boxes"], "float32")
        area = ops.where(ops.convert_to_tensor(y["classes"]) >= 0, compute_area(boxes, ops), 0.0)
        largest = ops.argmax(area, axis=1)[:, None, None]
        target = ops.take_along_axis(boxes, largest, axis=1)[:, 0] / self.side_px
        has_lesion = ops.cast(ops.max(area, axis=1) > 0, "float32")
        error = ops.mean(ops.square(ops.cast(y_pred["box_unit"], "float32") - target), axis=-1)
        loss = ops.sum(error * has_lesion) / ops.maximum(ops.sum(has_lesion), 1.0)
        self.box_loss.update_state(loss)
        return loss

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return the one box of each image, score 1; see `models.detector.Detector`.

        Corners in the wrong order are put right, and the box is cut to the image.
        """
        raw = ops.cast(self(image_unit, training=False)["box_unit"], "float32") * self.side_px
        low, high = ops.minimum(raw[:, :2], raw[:, 2:]), ops.maximum(raw[:, :2], raw[:, 2:])
        box = clip_boxes(ops.concatenate([low, high], axis=-1), self.side_px, self.side_px, xp=ops)
        padding = ((0, 0), (0, self.decode.max_detections - 1))
        one = ops.ones_like(box[:, :1])
        return {
            "boxes": ops.pad(box[:, None], (*padding, (0, 0))),
            "scores": ops.pad(one, padding),
            "classes": ops.pad(ops.cast(one - 1, "int32"), padding, constant_values=-1),
            "num_detections": ops.cast(one[:, 0], "int32"),
        }

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument as plain values."""
        return {
            "config": asdict(self.baseline_config),
            "side_px": self.side_px,
            "decode": asdict(self.decode),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> BaselineCNN:
        """Build the model that `get_config` described."""
        return cls(
            from_json(config["config"], BaselineCNNConfig),
            config["side_px"],
            from_json(config["decode"], DecodeConfig),
            name=config["name"],
        )


def build_baseline_cnn(
    config: BaselineCNNConfig, side_px: int = 512, decode: DecodeConfig | None = None
) -> BaselineCNN:
    """Return the network with random weights; see `BaselineCNN`.

    Raises:
        RecipeError: As `BaselineCNN` does.
    """
    return BaselineCNN(config, side_px, decode)
