"""Slices, orientation and outlines, checked against geometry that is known exactly."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from bh_bids.reports.mosaic import (
    compose_mosaic,
    contour_path,
    cut,
    grey_levels,
    plan_mosaic,
    png_uri,
    robust_window,
)
from bh_bids.reports.plots import flicker_svg, plot_brain_mask

SHAPE = (40, 48, 36)


def ellipsoid(shape=SHAPE, radii=(14, 18, 12)):
    centre = [(n - 1) / 2 for n in shape]
    grid = np.indices(shape, dtype=float)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


@pytest.mark.parametrize(
    ("axis", "rows", "columns"),
    # rows run from superior (anterior) down, columns from left (posterior) on
    [(2, "y", "x"), (1, "z", "x"), (0, "z", "y")],
)
def test_slices_have_superior_on_top_and_left_on_the_left(axis, rows, columns):
    mask = ellipsoid()
    tile = next(t for t in plan_mosaic(mask).tiles if t.axis == axis)
    box = tuple((0, n) for n in SHAPE)
    coordinate = {name: np.indices(SHAPE)["xyz".index(name)] for name in "xyz"}
    assert np.all(np.diff(cut(coordinate[rows], tile, box), axis=0) == -1)
    assert np.all(np.diff(cut(coordinate[columns], tile, box), axis=1) == 1)


def test_right_letter_stands_on_the_side_of_the_right_hemisphere(pictures):
    mask = ellipsoid()
    volume = np.where(mask, 0.2, 0).astype(np.float32)
    volume[SHAPE[0] // 2 :] *= 5  # RAS: high x is right
    svg = flicker_svg(volume, volume, mask)
    root = ElementTree.fromstring(svg)
    letters = {e.text: float(e.attrib["x"]) for e in root.iter() if e.text in ("L", "R")}
    layout = plan_mosaic(mask)
    picture = pictures(svg)[0]
    for tile in layout.tiles:
        if tile.plane == "sagittal":
            continue
        part = picture[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        left, right = np.array_split(part.astype(float), 2, axis=1)
        assert right.mean() > 2 * left.mean()
    first = layout.tiles[0]
    middle = first.left + first.width / 2
    assert letters["L"] < middle < letters["R"]


def test_anterior_letter_stands_on_the_side_of_the_front():
    mask = ellipsoid()
    svg = plot_brain_mask(mask.astype(float), mask)
    root = ElementTree.fromstring(svg)
    letters = {e.text: float(e.attrib["x"]) for e in root.iter() if e.text in ("P", "A")}
    assert letters["P"] < letters["A"]  # columns of sagittal slices run from posterior on


def test_tiles_lie_apart_inside_the_picture():
    layout = plan_mosaic(ellipsoid(), (1.0, 1.33, 1.33))
    used = np.zeros((layout.height, layout.width), int)
    for tile in layout.tiles:
        used[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert used.max() == 1
    assert used.sum() == sum(t.width * t.height for t in layout.tiles)
    assert {t.plane for t in layout.tiles} == {"axial", "coronal", "sagittal"}


def test_slices_are_labelled_in_millimetres_of_the_affine():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-80, -113, -72)
    for tile in plan_mosaic(ellipsoid(), affine=affine).tiles:
        expected = affine[tile.axis, tile.axis] * tile.index + affine[tile.axis, 3]
        shown = float(re.search(r"([+−]\d+)", tile.label).group(1).replace("−", "-"))
        assert shown == pytest.approx(expected, abs=0.51)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, 3.0)])
def test_outline_of_a_sphere_is_a_circle_whatever_the_voxels(spacing):
    shape, radius = (61, 61, 61), 12.0
    grid = np.indices(shape) - 30.0
    mask = sum((g * s) ** 2 for g, s in zip(grid, spacing, strict=True)) <= radius**2
    layout = plan_mosaic(mask, spacing)
    path = contour_path(mask, layout)
    outlines = [
        np.array([[float(n) for n in point.split(",")] for point in part.split(" ")])
        for part in re.findall(r"M([^Z]+)Z", path)
    ]
    tolerance = 0.75 * max(spacing)
    for tile in layout.tiles:
        inside = [
            line
            for line in outlines
            if tile.left <= line[:, 0].mean() <= tile.left + tile.width
            and tile.top <= line[:, 1].mean() <= tile.top + tile.height
        ]
        assert len(inside) == 1
        others = [a for a in range(3) if a != tile.axis]
        pixel = tile.width / (layout.box[others[0]][1] - layout.box[others[0]][0])
        millimetres = inside[0] / (pixel / spacing[others[0]])
        away = (tile.index - 30) * spacing[tile.axis]
        expected = np.sqrt(radius**2 - away**2)
        extent = np.ptp(millimetres, axis=0) / 2
        assert extent == pytest.approx(expected, abs=tolerance)


def test_one_pixel_a_voxel_is_not_interpolated():
    rng = np.random.default_rng(0)
    mask = np.zeros((160, 192, 160), bool)
    mask[12:148, 10:182, 12:148] = True
    volume = rng.random(mask.shape, dtype=np.float32)
    layout = plan_mosaic(mask)
    canvas = compose_mosaic(volume, layout)
    tile = layout.tiles[3]
    part = canvas[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    assert np.array_equal(part, cut(volume, tile, layout.box))


def test_window_ignores_outliers_and_values_that_are_not_finite():
    rng = np.random.default_rng(0)
    volume = rng.uniform(0, 1, SHAPE)
    volume[0, 0, 0], volume[1, 1, 1] = 1e6, np.nan
    low, high = robust_window(volume, np.ones(SHAPE, bool))
    assert low == 0 and 0.95 < high <= 1.0
    assert robust_window(np.zeros(SHAPE), np.zeros(SHAPE, bool)) == (0.0, 1.0)
    levels = grey_levels(np.array([[np.nan, np.inf, -np.inf, 0.5]]), (0.0, 1.0))
    assert levels.tolist() == [[0, 255, 0, 128]]


def test_png_gives_back_the_levels(decode):
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(np.asarray(decode(png_uri(levels))), levels)
    palette = np.stack([np.arange(256)[::-1]] * 3, axis=1).astype(np.uint8)
    colours = np.asarray(decode(png_uri(levels, palette)).convert("RGB"))
    assert np.array_equal(colours[..., 0], 255 - levels)
