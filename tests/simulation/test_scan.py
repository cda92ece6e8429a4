"""Scans of known heads: geometry, texture, contrast, noise, truth."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bh_bids.simulation.anatomy import label_anatomy, make_participant
from bh_bids.simulation.scan import (
    generator,
    head_position,
    scan_grid,
    simulate_head,
    simulate_scan,
)
from bh_bids.simulation.sites import PRESETS
from bh_bids.simulation.tissues import CODES


@pytest.fixture(scope="module")
def head(phantom_labels):
    return label_anatomy(*phantom_labels, spacing=4.0)


def canonical(volume, affine):
    image = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    return np.asanyarray(image.dataobj), image.affine


def world(affine, shape):
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR", "LPS", "SAR"])
def test_left_stays_left_in_every_orientation(head, still_site, codes):
    labels = head.classes.copy()
    left = np.arange(labels.shape[0]) < labels.shape[0] / 2
    labels[(labels == CODES["white"]) & left[:, None, None]] = CODES["fat"]
    marked = replace(head, classes=labels)
    site = replace(still_site, orientation=codes, voxel_size=(4, 5, 6))
    volume, affine, truth = simulate_scan(marked, site, generator(1))
    assert nib.aff2axcodes(affine) == tuple(codes)
    # The scalp is bright too: look in the brain.
    near = ndimage.binary_dilation(truth.brain, iterations=1)
    middle = np.linalg.norm(world(affine, volume.shape), axis=-1) < 50
    bright = (volume > 1.3 * site.gain) & (near | middle)
    assert bright.sum() > 100
    assert world(affine, volume.shape)[bright][:, 0].max() < 3
    assert truth.brain.shape == volume.shape
    assert np.allclose(sorted(nib.affines.voxel_sizes(affine)), [4, 5, 6])


def test_truth_is_the_anatomy(head, still_site):
    """Against nearest-neighbour sampling of the classes at every voxel's world point."""
    volume, affine, truth = simulate_scan(head, still_site, generator(0))
    points = nib.affines.apply_affine(np.linalg.inv(head.affine), world(affine, volume.shape))
    points = np.moveaxis(points, -1, 0)
    # Half-way points have two nearest neighbours: leave the surfaces out.
    settled = np.abs(points - np.round(points)).max(axis=0) < 0.4

    def nearest(volume):
        return ndimage.map_coordinates(volume.astype(np.uint8), points, order=0)

    expected = nearest(head.brain) > 0
    overlap = 2 * (expected & truth.brain).sum() / (expected.sum() + truth.brain.sum())
    assert overlap > 0.95
    classes = nearest(head.classes)
    for name, share in (("white", truth.wm), ("grey", truth.gm)):
        inside = ndimage.binary_erosion(classes == CODES[name]) & settled
        assert inside.sum() > 50
        assert share[inside].min() > 0.75
    voxel = abs(np.linalg.det(affine))
    for kind in ("CSF", "GM", "WM"):
        native = head.kind_map(kind).sum() * np.prod(head.spacing)
        assert getattr(truth, kind.lower()).sum() * voxel == pytest.approx(native, rel=0.05)
    total = truth.csf + truth.gm + truth.wm
    assert total[ndimage.binary_erosion(truth.brain, iterations=2)] == pytest.approx(1, abs=1e-3)


def test_segmentation_follows_bids_labels(head, still_site):
    _, _, truth = simulate_scan(head, still_site, generator(0))
    labels = truth.segmentation()
    assert (labels[truth.wm > 0.6] == 2).all() and (labels[truth.gm > 0.6] == 1).all()
    assert (labels[(truth.csf > 0.6) & truth.brain] == 3).all()
    assert not labels[~truth.brain].any()


def test_white_matter_has_the_gain_and_tissues_the_signal_equation(head, still_site):
    volume, _, truth = simulate_scan(head, still_site, np.random.default_rng(5))
    gain = still_site.gain * np.exp(np.random.default_rng(5).normal(0, 1, 7)[6] * 0.08)
    white = np.median(volume[truth.wm > 0.99])
    assert white == pytest.approx(gain, rel=0.01)
    signals = still_site.signals()
    grey = np.median(volume[truth.gm > 0.97])
    assert grey / white == pytest.approx(signals[CODES["grey"]] / signals[CODES["white"]], rel=0.05)


def test_affine_is_honest_about_the_heads_position(head, still_site):
    site = replace(still_site, rotation=6.0, shift=8.0)
    rng = generator(2)
    _, affine, truth = simulate_scan(head, site, rng)
    moved = head_position(generator(2), 6.0, 8.0)
    native = nib.affines.apply_affine(head.affine, np.argwhere(head.brain)).mean(axis=0)
    scanned = nib.affines.apply_affine(affine, np.argwhere(truth.brain)).mean(axis=0)
    assert np.abs(moved[:3, 3]).max() > 1
    assert scanned == pytest.approx(nib.affines.apply_affine(moved, native), abs=0.4)
    assert np.linalg.det(moved[:3, :3]) == pytest.approx(1)


def test_a_participants_texture_is_in_all_of_their_scans(head, still_site):
    """White matter's residuals agree between sites for one participant, not between two."""
    other_site = replace(
        still_site, name="other", field=1.5, sequence="spgr", tr=20.0, te=4.2, flip_angle=30.0
    )

    def residual(person, site):
        volume, _, truth = simulate_scan(person, site, generator(0))
        inside = ndimage.binary_erosion(truth.wm > 0.99, iterations=1)
        return np.where(inside, volume / np.median(volume[inside]) - 1, np.nan)

    def agreement(first, second):
        both = np.isfinite(first) & np.isfinite(second)
        return np.corrcoef(first[both], second[both])[0, 1]

    people = [make_participant(head, generator(k), strength=0.0) for k in (1, 2)]
    here = [residual(person, still_site) for person in people]
    there = [residual(person, other_site) for person in people]
    assert 0.01 < np.nanstd(here[0]) < 0.1
    for person in range(2):
        assert agreement(here[person], there[person]) > 0.97
    assert abs(agreement(here[0], there[1])) < 0.3


def test_participants_differ_in_shape_and_keep_the_tissues(head, still_site):
    masks = []
    for seed in (1, 2):
        person = make_participant(head, generator(seed))
        _, affine, truth = simulate_scan(person, still_site, generator(0))
        masks.append(truth.brain)
    overlap = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert 0.85 < overlap < 0.99


def test_size_scales_the_brain(head, still_site):
    volumes = []
    for size in (1.0, 0.9):
        person = make_participant(head, generator(4), strength=0.0, size=size)
        volumes.append(simulate_scan(person, still_site, generator(0))[2].brain.sum())
    assert volumes[1] / volumes[0] == pytest.approx(0.9**3, rel=0.03)


def test_noise_has_the_sites_level(head, still_site):
    site = replace(still_site, noise=0.05)
    volume, affine, truth = simulate_scan(head, site, np.random.default_rng(3))
    clean, _, _ = simulate_scan(head, site, np.random.default_rng(3), noise=0.0)
    air = clean == 0
    white = np.median(clean[truth.wm > 0.99])
    # Rayleigh: the mean of the magnitude of complex noise.
    assert volume[air].mean() == pytest.approx(0.05 * white * np.sqrt(np.pi / 2), rel=0.03)
    assert (volume - clean)[truth.wm > 0.99].std() == pytest.approx(0.05 * white, rel=0.1)
    fine = simulate_scan(head, site, np.random.default_rng(3), voxel_size=3.0)[0]
    smaller = (4 / 3) ** 3
    assert fine[fine < np.percentile(fine, 50)].mean() > 0.8 * smaller * volume[air].mean() * 0.7


def test_fields_are_the_sites_own(head, still_site):
    """The ratio of a scan to one without fields is smooth, and the same for two sessions."""
    site = replace(still_site, bias=0.2, coil=0.2)
    plain, _, truth = simulate_scan(head, still_site, np.random.default_rng(1))
    ratios = []
    for seed in (1, 2):
        volume, _, _ = simulate_scan(head, site, np.random.default_rng(seed))
        ratio = volume[truth.brain] / np.maximum(plain[truth.brain], 1)
        ratios.append(ratio / ratio.mean())
    assert ratios[0] == pytest.approx(ratios[1], abs=0.03)
    assert 0.08 < ratios[0].std() < 0.5


def test_skull_stripped_keeps_the_brain_alone(head, still_site):
    site = replace(still_site, noise=0.05)
    volume, _, truth = simulate_scan(head, site, generator(0), skull_stripped=True)
    assert not volume[~truth.brain].any() and volume[truth.brain].mean() > 0.4 * site.gain


def test_presets_have_t1_contrast():
    for site in PRESETS.values():
        signals = site.signals()
        csf, grey, white, fat = (signals[CODES[n]] for n in ("csf", "grey", "white", "fat"))
        assert csf < 0.5 * grey and 0.4 * white < grey < 0.8 * white and white < fat
        assert signals[CODES["bone"]] < 0.02 * white


def test_grid_covers_the_field_of_view():
    for site in PRESETS.values():
        shape, affine = scan_grid(site)
        corners = nib.affines.apply_affine(affine, [np.zeros(3), np.array(shape) - 1])
        extent = np.abs(corners[1] - corners[0])
        assert extent == pytest.approx(np.array(site.field_of_view), abs=2)
        assert nib.aff2axcodes(affine) == tuple(site.orientation)


def test_simulate_head_repeats_itself(phantom_labels, still_site):
    site = replace(still_site, noise=0.03, rotation=2.0, shift=2.0)
    first, affine, _ = simulate_head(*phantom_labels, site, 7)
    again, _, _ = simulate_head(*phantom_labels, site, 7)
    other, _, _ = simulate_head(*phantom_labels, site, 8)
    assert first.dtype == np.int16 and np.array_equal(first, again)
    assert not np.array_equal(first, other)
