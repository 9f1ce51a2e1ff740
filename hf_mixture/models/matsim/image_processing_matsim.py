"""Images with masks for MatSim: both are resized together, and become four channels.

Letters: N images, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs


class MatSimImageProcessor(PilBackend):
    """Makes `pixel_values` [N, 4, H, W] of RGB images and of masks that mark the material (arXiv 2212.00648).

    Image and mask are resized and cropped together, the mask by its nearest pixels so that it stays 0 or 1. RGB from 0
    to 255 is scaled to [0, 1] and normalised as published: mean (123.68, 116.779, 103.939) and standard deviation 65,
    in units of 0 to 255. Without a mask the whole image is marked.

    Args:
        kwargs: Fields of image processors: `size`, `do_resize`, `resample`, `do_center_crop`, `crop_size`,
            `do_rescale` (False for images from 0 to 1), `do_normalize`, `image_mean`, `image_std`. Default: as
            published, at 224 x 224 pixels.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import MatSimImageProcessor
        >>> image, mask = np.zeros((40, 60, 3), dtype=np.uint8), np.zeros((40, 60), dtype=bool)
        >>> mask[:, 30:] = True
        >>> out = MatSimImageProcessor(size={"height": 32, "width": 32})(image, mask, return_tensors="pt")
        >>> tuple(out["pixel_values"].shape), out["pixel_values"][0, 3].unique().tolist()
        ((1, 4, 32, 32), [0.0, 1.0])
    """

    valid_kwargs = ImagesKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - an attribute of transformers

    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}  # noqa: RUF012
    image_mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    image_std = (65 / 255, 65 / 255, 65 / 255)
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def preprocess(self, images: Any, masks: Any = None, **kwargs: Any) -> BatchFeature:
        """Preprocess images with masks.

        Args:
            images: One image or several: PIL images, or arrays or tensors with 3 channels, from 0 to 255.
            masks: One mask for each image, of its height and width: 0 where the material is not, and one positive
                value (1, 255, True) where it is. None, for all images or in the place of one, marks everything.
            kwargs: Fields of image processors that differ in this call; `return_tensors`.

        Returns:
            `pixel_values`.

        Raises:
            ValueError: An image or mask cannot be used; the message names its row.
        """
        if isinstance(images, list | tuple):
            for row, image in enumerate(images):
                if image is None:
                    raise ValueError(f"images[{row}] is None; remove the row, or give its image")
        return super().preprocess(images, masks, **kwargs)

    def _preprocess_image_like_inputs(self, images: Any, masks: Any = None, **kwargs: Any) -> BatchFeature:
        sources = self._prepare_images_structure(images)
        for row, source in enumerate(sources):
            _check_array(row, source)
        prepared = [
            _checked_image(row, image, rescales=kwargs["do_rescale"])
            for row, image in enumerate(self._prepare_image_like_inputs(sources, **kwargs))
        ]
        marks = _masks_of(masks, prepared)
        kind = kwargs.pop("return_tensors", None)
        kwargs |= {"do_pad": False, "return_tensors": None}
        colours = self._preprocess(prepared, **kwargs)["pixel_values"]
        nearest = {"resample": PILImageResampling.NEAREST, "do_rescale": False, "do_normalize": False}
        shown = self._preprocess(marks, **kwargs | nearest)["pixel_values"]
        rows = []
        for row, (colour, mark) in enumerate(zip(colours, shown, strict=True)):
            if not mark.any():
                raise ValueError(
                    f"masks[{row}] is empty at {mark.shape[1]} x {mark.shape[2]} pixels; mark more of the image, or "
                    "raise size"
                )
            if colour.shape != colours[0].shape:
                raise ValueError(
                    f"images[{row}] becomes {colour.shape[1]} x {colour.shape[2]} pixels and images[0] "
                    f"{colours[0].shape[1]} x {colours[0].shape[2]}; give size with height and width"
                )
            rows.append(np.concatenate([colour, mark]).astype(np.float32))
        return BatchFeature(data={"pixel_values": rows}, tensor_type=kind)


def _check_array(row: int, source: Any) -> None:
    """Refuse an array that is no RGB image; PIL images are converted."""
    shape = getattr(source, "shape", None)
    if shape is not None and (len(shape) != 3 or 3 not in (shape[0], shape[-1])):
        raise ValueError(f"images[{row}] has the shape {tuple(shape)}; give 3 channels, first or last, or a PIL image")


def _checked_image(row: int, image: Any, *, rescales: bool) -> Any:
    if not np.isfinite(image).all():
        raise ValueError(f"images[{row}] has values that are not finite; replace them")
    least, most = float(image.min()), float(image.max())
    limit = 255 if rescales else 1
    if least < 0 or most > limit:
        raise ValueError(
            f"images[{row}] has values from {least:g} to {most:g}; with do_rescale={rescales} they must be from 0 to "
            f"{limit}: scale them, or change do_rescale"
        )
    if not rescales or image.dtype == np.uint8:
        return image
    if 0 < most <= 1 and not np.issubdtype(image.dtype, np.integer):
        raise ValueError(
            f"images[{row}] has values from {least:g} to {most:g}, and from 0 to 255 are expected; pass "
            "do_rescale=False for images from 0 to 1"
        )
    return np.rint(image).astype(np.uint8)


def _masks_of(masks: Any, images: list[Any]) -> list[Any]:
    """One mask of 0 and 1 for each image [1, H, W], in bytes."""
    if masks is None:
        found: list[Any] = [None] * len(images)
    elif isinstance(masks, list | tuple):
        found = list(masks)
    else:
        array = np.asarray(masks)
        found = [array] if array.ndim == 2 else list(array)
    if len(found) != len(images):
        raise ValueError(f"there are {len(found)} masks and {len(images)} images; give one mask for each image")
    return [_mask_of(row, mask, image.shape[1:]) for row, (mask, image) in enumerate(zip(found, images, strict=True))]


def _mask_of(row: int, mask: Any, shape: tuple[int, int]) -> Any:
    if mask is None:
        return np.ones((1, *shape), dtype=np.uint8)
    array = np.asarray(mask)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(0 if array.shape[0] == 1 else -1)
    if array.shape != shape:
        raise ValueError(
            f"masks[{row}] has the shape {array.shape}, and images[{row}] {shape[0]} x {shape[1]} pixels; give a mask "
            "of the height and width of its image"
        )
    marked = array != 0
    if not marked.any():
        raise ValueError(f"masks[{row}] is empty; mark the material, or give None for the whole image")
    value = array[marked].flat[0]
    # Written so that NaN fails.
    if not (value > 0 and (array[marked] == value).all()):
        raise ValueError(f"masks[{row}] has more than 0 and one positive value; threshold it to 0 and 1")
    return marked[None].astype(np.uint8)
