"""What a path costs: multiplications of its convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig


def count_multiply_adds(
    config: PoolingResNetConfig, image_size: int | tuple[int, int], path: Sequence[int] | None = None
) -> int:
    """Count the multiplications with which a network classifies one image.

    Args:
        config: The network.
        image_size: Height and width in pixels, or one number for both.
        path: Another path than that of the configuration [L].

    Returns:
        The number; normalisation and pooling are left out.

    Example:
        >>> from hf_mixture import PoolingResNetConfig
        >>> from hf_mixture.models.pooling_supernet.costs import count_multiply_adds
        >>> count_multiply_adds(PoolingResNetConfig(num_labels=10), 32)
        40813184
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    total = 0
    before = config.num_channels
    for number, (out, pools) in enumerate(zip(config.layer_widths, path or config.pooling_path or (), strict=True)):
        height, width = (height // 2, width // 2) if pools else (height, width)
        if number == 0:
            weights = 9 * before * out
        elif config.layer_type == "basic":
            weights = 9 * (before * out + out * out)
        else:
            weights = out // 4 * (before + 9 * (out // 4) + out)
        if number and before != out:
            weights += before * out
        total += height * width * weights
        before = out
    return total + before * config.num_labels
