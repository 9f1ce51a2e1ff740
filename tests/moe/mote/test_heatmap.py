from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from hf_mixture.moe.mote.heatmap import draw_expert_map, save_expert_map


def pixels_of(figure, row: int, expert: int) -> np.ndarray:
    """RGB of a point in the lower right quarter of a cell, as drawn."""
    figure.canvas.draw()
    x, y = figure.axes[0].transData.transform((expert + 0.3, row + 0.3))
    image = np.asarray(figure.canvas.buffer_rgba())
    return image[image.shape[0] - round(y), round(x), :3].astype(int)


def test_colours_are_centred_at_zero_and_equally_strong_on_both_sides() -> None:
    values = np.zeros((4, 64))
    values[0, 1], values[2, 3], values[3, 60] = 0.5, -0.25, -0.5
    figure = draw_expert_map(values)
    assert figure.axes[0].images[0].get_clim() == (-0.5, 0.5)
    red, blue, zero = (pixels_of(figure, *cell) for cell in ((0, 1), (3, 60), (1, 1)))
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert zero.min() > 240


def test_edited_experts_are_outlined_and_named_by_layer() -> None:
    figure = draw_expert_map(np.ones((58, 256)), layers=range(3, 61), edited=[(45, 176), (45, 180), (1, 143)])
    axes = figure.axes[0]
    frames = {patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)}
    assert frames == {(175.5, 44.5), (179.5, 44.5), (142.5, 0.5)}
    # Neighbours share a label, which would otherwise cover the next cell.
    assert {text.get_text() for text in axes.texts} == {"4:143", "48:176, 48:180"}
    assert axes.get_yticklabels()[0].get_text() == "3"


def test_a_small_map_shows_its_numbers() -> None:
    values = np.arange(64).reshape(4, 16) / 100
    figure = draw_expert_map(values, edited=[(3, 13)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 64
    assert texts[3 * 16 + 13] == "0.61"


def test_missing_experts_are_empty() -> None:
    values = np.ones((2, 4))
    values[1, 2:] = np.nan
    figure = draw_expert_map(values, diverging=False)
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)
    assert len(figure.axes[0].texts) == 6


def test_png(tmp_path: Path) -> None:
    path = save_expert_map(tmp_path / "map.png", np.eye(48, 128), title="a - b", label="rate")
    height, width, _ = imread(path).shape
    # Every cell has some pixels.
    assert height > 48 * 6
    assert width > 128 * 6


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(3), {}, "shape"),
        (np.full((2, 2), np.nan), {}, "0 finite numbers"),
        (np.ones((2, 2)), {"layers": [1]}, "layers has 1 names and values 2 rows"),
        (np.ones((2, 2)), {"edited": [(0, 2)]}, "row 0, expert 2"),
    ],
)
def test_bad_input(values: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_expert_map(values, **options)
