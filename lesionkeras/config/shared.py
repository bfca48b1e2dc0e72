"""What runs of detectors and segmenters have alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Fields that came after runs had been published: at their default they are left out of a recipe's
# digest, so that those runs keep their names and can be resumed.
LATER = {"later": True}


def later(default: Any) -> Any:
    """Return a dataclass field of a default that does not change the digest (see LATER)."""
    return field(default=default, metadata=LATER)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to a training image and its boxes; magnitudes in units of the 0..1 image."""

    mode: str = "online"  # "none"; "copies": P1's fixed copies; "online": new every epoch
    copies: int = 4  # P1, 3.2.2: 1,267 images become 6,335
    brightness: float = 0.05  # added, uniform in +-brightness
    gamma: tuple[float, float] = (0.8, 1.25)  # P1: 0.5, 2.0, which hides weak lesions
    noise_std: float = 0.01  # upper end; the standard deviation is uniform in 0..noise_std
    translate_fraction: float = 0.1  # of the side, uniform in +-
    flip_left_right: bool = True  # "online" only, as all below; patients lie on either side
    flip_up_down: bool = True
    scale: tuple[float, float] = (0.8, 1.25)  # zoom, log-uniform
    crop_size_px: int = 64  # 0 trains on whole images; CHANGELOG has the runs that chose it
    crop_on_lesion_probability: float = 0.6  # share of crops that hold a lesion, if there is one


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    name: str = "adamw"  # "sgd"; "adam": without decay
    learning_rate: float = 1.2e-3
    momentum: float = 0.9  # sgd
    nesterov: bool = True  # sgd
    weight_decay: float = 1e-4  # adamw
    clip_norm: float = 0.0  # 0: off
    # "constant"; "plateau": less where the loss (of validation, if there is one) falls no more (P5)
    schedule: str = "cosine"
    warmup_fraction: float = 0.1  # of all steps, linear from 0
    plateau_factor: float = 0.1  # by which "plateau" multiplies; this and the next: Keras' own
    plateau_patience_epochs: int = 10  # without a lower loss, as P5 names no other
    ema_momentum: float = 0.0  # of averaged weights, which are tested and kept; 0: not averaged
