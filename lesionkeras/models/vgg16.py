"""VGG16's convolutions (Simonyan, Zisserman 2015, table 1, D), named as keras.applications'."""

from __future__ import annotations

import keras

from lesionkeras.models.segnet import NUM_CONVS, VGG16_CHANNELS


def build_vgg16(num_blocks: int = 5, num_pools: int = 5) -> keras.Model:
    """Return VGG16 without its dense layers, for inputs of any size.

    Args:
        num_blocks: Blocks that are kept, from the image on.
        num_pools: Poolings that are kept, from the first block's on.

    Returns:
        A model `vgg16` from float [B, H, W, 3] to [B, H / 2^p, W / 2^p, C] (rounded up, as anchors
        are), p the number of poolings, C the last block's channels: 128, 256 or 512 of block 2, 3,
        4 and 5.
    """
    x = image = keras.Input((None, None, 3))
    widths = list(zip(NUM_CONVS, VGG16_CHANNELS, strict=True))[:num_blocks]
    for block, (count, channels) in enumerate(widths, 1):
        for i in range(1, count + 1):
            x = keras.layers.Conv2D(
                channels,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"block{block}_conv{i}",
            )(x)
        if block <= num_pools:
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    return keras.Model(image, x, name="vgg16")


def list_later_keys(num_blocks: int) -> set[str]:
    """Return LAYER/VARIABLE of the blocks that a network of the first `num_blocks` leaves out.

    >>> sorted(list_later_keys(4))[:2], len(list_later_keys(4))
    (['block5_conv1/bias', 'block5_conv1/kernel'], 6)
    """
    return {
        f"block{block}_conv{i}/{variable}"
        for block in range(num_blocks + 1, len(NUM_CONVS) + 1)
        for i in range(1, NUM_CONVS[block - 1] + 1)
        for variable in ("kernel", "bias")
    }
