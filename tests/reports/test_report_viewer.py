"""The slice viewer's volumes: packed and read back, checked, shrunk, and put into a page."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.reports.page import add_viewers
from bh_bids.reports.viewer import (
    as_script_text,
    fit,
    preview,
    preview_change,
    read_bundle,
    shrink,
    unpack,
    viewer_bundle,
)


def ball(shape=(24, 28, 22)):
    grid = np.indices(shape, dtype=float)
    mask = sum(((g - (n - 1) / 2) / (0.42 * n)) ** 2 for g, n in zip(grid, shape, strict=True)) < 1
    volume = np.random.default_rng(0).uniform(0.3, 1, shape)
    return np.where(mask, volume, 0).astype(np.float32), mask


@pytest.fixture(scope="module")
def bundle():
    volume, mask = ball()
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-30, -40, -10]
    volumes = {"source": volume, "harmonized": volume**0.8, "target": 0.9 * volume, "ncc": volume}
    return viewer_bundle(volumes, mask, affine)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 30)] * 3), st.integers(0, 99))
def test_levels_come_back_where_they_were(shape, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.7
    mask[0, 0, 0] = mask[-1, -1, -1] = True  # nothing is cropped
    volume = rng.uniform(0, 1.3, shape)
    packed = viewer_bundle({"source": volume, "harmonized": volume}, mask, np.eye(4))
    levels = unpack(read_bundle(as_script_text(packed)), "source")
    assert levels.shape == shape and ((levels > 0) == mask).all()
    values = (levels[mask].astype(float) - 1) / 254 * 1.3
    assert np.abs(values - volume[mask]).max() < 0.501 * 1.3 / 254  # rounding


def test_what_is_not_known_is_not_shown_as_a_value(bundle):
    volume, mask = ball()
    correlation = np.full(volume.shape, 0.9)
    correlation[12] = np.nan
    volumes = {"source": volume, "harmonized": volume, "ncc": correlation}
    packed = viewer_bundle(volumes, mask, np.eye(4))
    known, inside = (unpack(packed, name) > 0 for name in ("ncc", "source"))
    assert (inside & ~known).sum() == mask[12].sum() > 0
    assert not (known & ~inside).any()


def test_the_brain_s_box_keeps_its_place(bundle):
    volume, mask = ball()
    low = np.argwhere(mask).min(axis=0)
    box = np.maximum(low - 2, 0)
    assert bundle["origin"] == [float(o) for o in np.array([-30, -40, -10]) + 2 * box]
    levels = unpack(bundle, "source")
    where = np.array(np.unravel_index(np.argmax(volume), volume.shape))
    assert levels[tuple(where - box)] == levels.max()


def test_a_shrunk_bundle_shows_the_same_place(bundle):
    small = shrink(bundle)
    assert small["spacing"] == [4.0] * 3
    assert small["shape"] == [-(-n // 2) for n in bundle["shape"]]
    assert small["origin"] == [o + 1 for o in bundle["origin"]]
    large, levels = (unpack(b, "harmonized").astype(float) for b in (bundle, small))
    inside = levels > 0
    means = large[
        : 2 * (large.shape[0] // 2), : 2 * (large.shape[1] // 2), : 2 * (large.shape[2] // 2)
    ]
    means = means.reshape(*[v for n in means.shape for v in (n // 2, 2)]).mean(axis=(1, 3, 5))
    inside = inside[tuple(slice(n) for n in means.shape)]
    assert inside.any()
    assert np.abs(means - levels[tuple(slice(n) for n in means.shape)])[inside].max() <= 0.5


def test_large_bundles_are_shrunk_until_they_fit(bundle):
    size = sum(len(layer["png"]) for layer in bundle["layers"])
    assert fit([bundle, None], size) == [bundle, None]
    first, second = fit([bundle, bundle], int(1.5 * size))
    assert {first["spacing"][0], second["spacing"][0]} == {2.0, 4.0}
    # What cannot be made small enough is still shown, at a fourth of the resolution.
    assert [b["spacing"][0] for b in fit([bundle, bundle], 1)] == [8.0, 8.0]


BAD = [
    {"shape": [1, 2]},
    {"shape": ["<script>", 2, 3]},
    {"shape": [10**6, 10**6, 3]},
    {"columns": 0},
    {"origin": [0, float("nan"), 0]},
    {"layers": []},
    {"layers": [{"name": "source", "range": [0, 1], "png": "</script>"}]},
    {"layers": 3},
]


@pytest.mark.parametrize("change", BAD)
def test_what_is_no_bundle_is_refused(bundle, change):
    with pytest.raises(ValueError):
        read_bundle(json.dumps({**bundle, **change}))


def test_labels_are_ours_whatever_the_file_says(bundle):
    layers = [
        {**layer, "label": "<script>alert(1)</script>", "more": 1} for layer in bundle["layers"]
    ]
    found = read_bundle(json.dumps({**bundle, "layers": layers, "extra": "<b>"}))
    assert "<" not in as_script_text(found) and "alert" not in as_script_text(found)


def test_a_picture_of_another_size_is_named(bundle):
    bundle = {**bundle, "shape": [5, 5, 5]}
    view, problems = {"label": "T1w scan", "figures": []}, []
    add_viewers([view], [bundle], problems)
    assert view["viewer"] is None and view["pair"] is None
    assert "T1w scan" in problems[0]


def test_preview_shows_three_planes(bundle):
    import base64
    import io

    from PIL import Image

    uri = preview(bundle, "source")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"))
    levels = unpack(bundle, "source")
    nx, ny, nz = levels.shape
    assert picture.shape == (max(ny, nz), 2 * nx + ny + 12)
    np.testing.assert_array_equal(picture[:ny, :nx], levels[:, :, int(0.55 * nz)].T[::-1])


@pytest.mark.parametrize("change, limit", [(0.08, 10), (-0.08, 10), (0.0, 5), (0.45, 50)])
def test_preview_of_the_change_tells_its_size(change, limit, decode):
    volume, mask = ball()
    volume = np.where(mask, 0.3 + 0.4 * volume, 0)
    volumes = {"source": volume, "harmonized": np.where(mask, volume + change, 0)}
    uri, ends = preview_change(viewer_bundle(volumes, mask, np.eye(4)))
    picture = np.asarray(decode(uri))
    inside = picture[picture != 255]
    assert ends == limit and inside.size > 500
    shown = (inside.astype(float) / 127 - 1) * limit
    assert np.abs(shown - 100 * change).max() <= 130 / 254 + limit / 127  # rounding, twice
