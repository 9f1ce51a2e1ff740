"""Image processor of TaskExpert: images and all their label maps go through the same geometry.

Letters: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hf_mixture.models.taskexpert import geometry
from hf_mixture.models.taskexpert.data_collator import collate_scenes
from hf_mixture.models.taskexpert.tasks import TASKS


class TaskExpertImageProcessor(BaseImageProcessor):
    """Prepares images and their label maps, with augmentation where it is asked for.

    Without augmentation images are resized to `size`; labels keep their values, depth too, since every image is
    resized alike. With it, as published: zoom by a random scale, which divides depth by it; a random crop of `size`;
    a mirror image, which changes the sign of the x component of normals; distorted colours.

    Args:
        do_resize: Whether to resize without augmentation.
        size: `height` and `width` of what comes out.
        do_rescale: Whether to multiply by `rescale_factor`.
        rescale_factor: Factor of colours.
        do_normalize: Whether to subtract `image_mean` and divide by `image_std`.
        image_mean: Mean of each channel.
        image_std: Standard deviation of each channel.
        scale_range: Smallest and largest scale of a zoom.
        category_max_ratio: Largest share of a class in a crop; after ten crops any is taken.
        flip_probability: Probability of a mirror image.
        distort_colours: Whether augmentation distorts colours; those of uint8 images.
        ignore_value: Label of pixels that do not count.
        kwargs: As of image processors.

    Raises:
        ValueError: If `size` has not both sides.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import TaskExpertImageProcessor
        >>> processor = TaskExpertImageProcessor(size={"height": 16, "width": 16})
        >>> batch = processor(
        ...     [np.zeros((32, 32, 3), np.uint8)], labels=[{"depth": np.ones((32, 32))}], return_tensors="pt"
        ... )
        >>> tuple(batch["pixel_values"].shape), tuple(batch["labels"]["depth"].shape)
        ((1, 3, 16, 16), (1, 16, 16))
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - an attribute of transformers

    def __init__(  # noqa: PLR0917 - as image processors of transformers
        self,
        do_resize: bool = True,
        size: Mapping[str, int] | None = None,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
        scale_range: Sequence[float] = (0.5, 2.0),
        category_max_ratio: float = 0.75,
        flip_probability: float = 0.5,
        distort_colours: bool = True,
        ignore_value: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        size = dict(size or {"height": 448, "width": 448})
        if set(size) != {"height", "width"} or min(size.values()) < 1:
            raise ValueError(f"size={size} must have height and width, at least 1; give both")
        self.do_resize = do_resize
        self.size = size
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.scale_range = list(scale_range)
        self.category_max_ratio = category_max_ratio
        self.flip_probability = flip_probability
        self.distort_colours = distort_colours
        self.ignore_value = ignore_value

    def preprocess(
        self,
        images: Any,
        labels: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        augment: bool = False,
        seed: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Prepare a batch; calling the processor does the same.

        Args:
            images: One image or several: PIL, or arrays [H, W, 3] or [3, H, W].
            labels: For each image its label maps by task: [H, W], or [3, H, W] for normals; None for a task that the
                image lacks. Default: none.
            augment: Whether to change images at random, for training.
            seed: Seed of these changes. Default: another one each time.
            return_tensors: `"pt"` for tensors, `"np"` for arrays. Default: arrays, without labels in a list.

        Returns:
            `pixel_values` [B, 3, H, W]; with labels, `labels` and `task_masks` by task, as the model takes them.

        Raises:
            ValueError: If an image or a label map cannot be used; the message names its row.
        """
        single = not isinstance(images, list | tuple)
        rows = [images] if single else list(images)
        maps = [labels] if isinstance(labels, Mapping) else list(labels or [{}] * len(rows))
        if len(maps) != len(rows):
            raise ValueError(f"there are {len(rows)} images and labels for {len(maps)}; give one mapping for each")
        samples = [
            check_sample(number, image, given, self.ignore_value)
            for number, (image, given) in enumerate(zip(rows, maps, strict=True))
        ]
        generator = np.random.default_rng(seed)
        samples = [self._augmented(sample, generator) if augment else self._resized(sample) for sample in samples]
        pixels = [self._pixels(sample.image) for sample in samples]
        if labels is None:
            return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)
        batch = collate_scenes(
            [{"pixel_values": image, "labels": sample.labels} for image, sample in zip(pixels, samples, strict=True)],
            ignore_value=self.ignore_value,
        )
        if return_tensors != "pt":
            # BatchFeature converts no nested mappings.
            batch = {
                key: {task: maps.numpy() for task, maps in value.items()} if isinstance(value, dict) else value.numpy()
                for key, value in batch.items()
            }
        return BatchFeature(batch)

    def post_process_tasks(self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None) -> list[Any]:
        """Turn logits maps into predictions.

        Args:
            outputs: What the model returned.
            target_sizes: Height and width for each image. Default: those of the logits.

        Returns:
            For each image, by task: classes [H, W] for segmentation, probabilities [H, W] for saliency and edges,
            vectors of length 1 [3, H, W] for normals, numbers [H, W] for depth.
        """
        import torch.nn.functional as F

        number = len(next(iter(outputs.logits.values())))
        found: list[dict[str, Any]] = []
        for place in range(number):
            maps = {task: logits[place : place + 1].float() for task, logits in outputs.logits.items()}
            if target_sizes is not None:
                maps = {
                    task: F.interpolate(logits, size=tuple(target_sizes[place]), mode="bilinear", align_corners=False)
                    for task, logits in maps.items()
                }
            found.append({task: prediction_of(task, logits)[0] for task, logits in maps.items()})
        return found

    def _size(self) -> tuple[int, int]:
        return int(self.size["height"]), int(self.size["width"])

    def _resized(self, sample: geometry.Sample) -> geometry.Sample:
        return geometry.resize(sample, self._size()) if self.do_resize else sample

    def _augmented(self, sample: geometry.Sample, generator: Any) -> geometry.Sample:
        sample = geometry.zoom(sample, float(generator.uniform(*self.scale_range)), self.ignore_value)
        fill = np.array(self.image_mean) / (self.rescale_factor if self.do_rescale else 1)
        sample = geometry.pad(sample, self._size(), fill, self.ignore_value)
        sample = geometry.random_crop(sample, self._size(), self.category_max_ratio, self.ignore_value, generator)
        if generator.random() < self.flip_probability:
            sample = geometry.flip(sample, self.ignore_value)
        if self.distort_colours and sample.image.dtype == np.uint8:
            sample = sample._replace(image=geometry.distort_colours(sample.image, generator))
        return sample

    def _pixels(self, image: Any) -> Any:
        values = image.astype(np.float32)
        if self.do_rescale:
            values = values * np.float32(self.rescale_factor)
        if self.do_normalize:
            values = (values - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def prediction_of(task: str, logits: Any) -> Any:
    """Turn the logits map of a task into predictions.

    Args:
        task: Name of the task.
        logits: [B, C, H, W].

    Returns:
        Classes, probabilities, vectors of length 1 or numbers: [B, H, W], or [B, 3, H, W] for normals.
    """
    import torch.nn.functional as F

    if TASKS[task].kind == "class":
        return logits.argmax(dim=1)
    if task == "saliency":
        return logits.softmax(dim=1)[:, 1]
    if task == "edges":
        return logits[:, 0].sigmoid()
    return F.normalize(logits, dim=1) if task == "normals" else logits[:, 0]


def check_sample(number: int, image: Any, labels: Mapping[str, Any] | None, ignore_value: int) -> geometry.Sample:
    """Check an image and its label maps, and bring them to one form.

    Args:
        number: Its row, for messages.
        image: PIL image or array.
        labels: Label maps by task, None where one is missing.
        ignore_value: Label of pixels that do not count.

    Returns:
        Both, as arrays; without the tasks that are missing.

    Raises:
        ValueError: If there is a fault.
    """
    mode = getattr(image, "mode", None)
    if isinstance(mode, str) and mode != "RGB":
        raise ValueError(f'row {number}: the image has the mode {mode!r}; convert it with image.convert("RGB")')
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] != 3 and pixels.shape[0] == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.size == 0:
        raise ValueError(f"row {number}: the image has the shape {pixels.shape}; it must be [height, width, 3]")
    if not np.isfinite(pixels).all():
        raise ValueError(f"row {number}: the image has pixels that are not finite; repair it or leave the row out")
    found = {
        task: check_label(f"row {number}: labels[{task!r}]", task, np.asarray(label), pixels.shape[:2], ignore_value)
        for task, label in (labels or {}).items()
        if label is not None
    }
    return geometry.Sample(pixels, found)


def check_label(where: str, task: str, label: Any, size: tuple[int, ...], ignore_value: int) -> Any:
    """Check one label map.

    Args:
        where: Its place, for messages.
        task: Name of the task.
        label: The map.
        size: Height and width of the image.
        ignore_value: Label of pixels that do not count.

    Returns:
        The map, in the type of its task.

    Raises:
        ValueError: If there is a fault.
    """
    if task not in TASKS:
        raise ValueError(f"{where}: there is no such task; the tasks are {', '.join(TASKS)}")
    channels = TASKS[task].label_channels
    if label.ndim == 3 and channels == 3 and label.shape[0] != 3 and label.shape[-1] == 3:
        label = np.moveaxis(label, -1, 0)
    wanted = tuple(size) if channels is None else (channels, *size)
    if label.shape != wanted:
        raise ValueError(f"{where} has the shape {label.shape}; for an image of {tuple(size)} it must be {wanted}")
    if not np.isfinite(label).all():
        raise ValueError(
            f"{where} has values that are not finite; give pixels without a label the value {ignore_value}"
        )
    valid = label != ignore_value
    if not (valid.all(axis=0) if channels == 3 else valid).any():
        raise ValueError(f"{where} has no pixel with a label; give None for a task that the image lacks")
    if TASKS[task].kind in ("class", "binary"):
        values = label[valid]
        if (values != np.round(values)).any() or values.min() < 0:
            raise ValueError(f"{where} must hold whole numbers from 0, or {ignore_value}; found {values.min()}")
        if TASKS[task].kind == "binary" and values.max() > 1:
            raise ValueError(f"{where} must hold 0, 1 or {ignore_value}; found {values.max()}")
    elif task == "depth" and label[valid].min() <= 0:
        raise ValueError(
            f"{where} has a depth of {label[valid].min()}, and depths are above 0; give pixels without one the value "
            f"{ignore_value}"
        )
    return label.astype(geometry.label_dtype(task))
