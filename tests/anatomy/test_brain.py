"""Is there a skull, where is the brain: on heads whose brain is known."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bh_bids.anatomy import bias
from bh_bids.anatomy import brain as module
from bh_bids.anatomy.brain import (
    FLUID_TO_GREY,
    _fluid_like_cortex,
    brain_mask,
    extract_brain,
    foreground,
    is_skull_stripped,
    mask_of_skull_stripped,
    refine_mask,
    without_empty,
)
from bh_bids.anatomy.templates import HeadTemplate
from bh_bids.errors import InputError


@pytest.fixture(scope="module")
def head(small_brain, tools):
    return tools.head(small_brain)


@pytest.fixture(scope="module")
def head_template(head):
    probability = head.mask.astype(np.float32)
    return HeadTemplate(head.volume, probability, head.affine, "SyN of a test's head")


def test_a_brain_alone_is_skull_stripped(small_brain):
    assert is_skull_stripped(small_brain.volume, small_brain.affine)


@pytest.mark.parametrize("background", [-1024, 37])
def test_any_constant_background_will_do(background, small_brain):
    volume = np.where(small_brain.mask, small_brain.volume, background)
    assert is_skull_stripped(volume, small_brain.affine)
    np.testing.assert_array_equal(foreground(volume), small_brain.mask)


def test_a_brain_cut_on_one_side_is_still_skull_stripped(small_brain):
    top = np.flatnonzero(small_brain.mask.any(axis=(0, 1)))[-1]
    assert is_skull_stripped(small_brain.volume[:, :, : top - 3], small_brain.affine)


def test_a_head_with_noisy_air_is_not(head):
    assert not is_skull_stripped(head.volume, head.affine)


def test_a_head_with_blanked_air_is_not(head):
    volume = np.where(head.volume > 9, head.volume, 0)
    assert not is_skull_stripped(volume, head.affine)


def test_a_tightly_cropped_brain_with_its_background_is_not_taken_for_one(small_brain):
    """Nothing but content up to the faces: this is a cropped head, not a stripped brain."""
    middle = tuple(slice(n // 4, 3 * n // 4) for n in small_brain.volume.shape)
    assert not is_skull_stripped(small_brain.volume[middle], small_brain.affine)


def test_small_objects_are_no_brains(small_brain):
    """A fruit fly's worth of voxels: the same picture, a quarter of the size."""
    affine = small_brain.affine.copy()
    affine[:3, :3] /= 4
    assert not is_skull_stripped(small_brain.volume, affine)


def first_scans(data_dir, name, count):
    paths = sorted((data_dir / name).glob("sub-*/anat/*_T1w.nii.gz"))[:count]
    if not paths:
        pytest.skip(f"the public scans of {name} are not here: set BH_DATA")
    for path in paths:
        image = nib.as_closest_canonical(nib.load(path))
        yield path.name, image.get_fdata(dtype=np.float32), image.affine


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "stripped"), [("target-ds002748", True), ("source-ds000011", False)]
)
def test_real_scans_are_told_apart(name, stripped, data_dir):
    for scan, volume, affine in first_scans(data_dir, name, 2):
        assert is_skull_stripped(volume, affine) is stripped, scan


def test_the_mask_of_a_stripped_scan_has_no_holes_and_no_crumbs(small_brain):
    volume = small_brain.volume.copy()
    centre = tuple(n // 2 for n in volume.shape)
    volume[centre] = 0
    volume[1, 1, 1] = 500
    mask = mask_of_skull_stripped(volume)
    assert mask[centre]
    assert not mask[1, 1, 1]
    assert (mask != small_brain.mask).sum() < 0.01 * small_brain.mask.sum()


@pytest.fixture
def moved_head(head, tools):
    """The head with another gain, elsewhere; and where its brain is then."""
    matrix = tools.matrix(shift=(4.0, -6.0, 3.0), angles=(0.08, -0.05, 0.1))
    volume = 3.1 * tools.move(head.volume, head.affine, matrix) + 2
    return volume, tools.move(head.mask.astype(np.float32), head.affine, matrix) > 0.5


def test_extraction_finds_the_brain_of_a_moved_head(
    head, moved_head, head_template, tools, monkeypatch
):
    monkeypatch.setattr(module, "SLOPPY_SPACING", 6.0)
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)
    volume, brain = moved_head
    found = extract_brain(volume, head.affine, head_template, sloppy=True)
    assert found.dtype == bool and found.shape == volume.shape
    assert tools.dice(found, brain) > 0.93


def test_extraction_finds_the_brain_of_a_head_that_nods_far(
    head, head_template, tools, monkeypatch, capfd
):
    monkeypatch.setattr(module, "SLOPPY_SPACING", 6.0)
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)
    turn = tools.matrix(angles=(1.1, 0.3, -0.3))
    volume = tools.move(head.volume, head.affine, turn)
    brain = tools.move(head.mask.astype(np.float32), head.affine, turn) > 0.5
    assert tools.dice(extract_brain(volume, head.affine, head_template, sloppy=True), brain) > 0.95
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_extraction_repeats_bit_for_bit(head, moved_head, head_template, tools, monkeypatch):
    monkeypatch.setattr(module, "WORKING_SPACING", 4.0)
    volume, brain = moved_head
    found = extract_brain(volume, head.affine, head_template)
    assert tools.dice(found, brain) > 0.95
    again = extract_brain(volume, head.affine, head_template)
    np.testing.assert_array_equal(again, found)


SIZES = (1.0, 1.2, 1.5)


@pytest.fixture(scope="module")
def layers():
    """Brain of 24 mm, fluid and bone of 5 mm, scalp: the distance from the centre, and the T1w."""
    shape = tuple(int(80 / size) for size in SIZES)
    grid = [(np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, SIZES, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*grid, indexing="ij")))
    volume = np.select([distance < 24, distance < 29, distance < 36], [100, 20, 140], 5)
    return distance, volume.astype(np.float32)


def test_a_mask_grows_to_the_brains_edge_and_no_farther(layers, tools):
    distance, volume = layers
    core = distance < 21.5
    refined = refine_mask(volume, core, SIZES)
    assert refined.dtype == bool and (refined & core).sum() == core.sum()
    assert tools.dice(refined, distance < 24) > 0.98
    assert refined[distance > 25].sum() == 0


def test_a_mask_that_is_too_large_draws_back_to_the_brains_edge(layers, tools):
    distance, volume = layers
    refined = refine_mask(volume, distance < 27, SIZES)
    assert tools.dice(refined, distance < 24) > 0.97
    assert refined[distance < 22].all() and refined[distance > 25.5].sum() == 0


@pytest.mark.parametrize("fluid", [20, 50, 65])
def test_fluid_is_told_from_brain_at_any_contrast(layers, fluid, tools):
    """A brain with its own fluid inside, by which the threshold is told."""
    distance, volume = layers
    inner = np.where((distance > 24) & (distance < 29) | (distance < 8), fluid, volume)
    refined = refine_mask(inner.astype(np.float32), distance < 22.5, SIZES)
    assert tools.dice(refined, distance < 24) > 0.97
    assert refined[distance > 25.5].sum() == 0


def test_a_mask_never_draws_back_by_more_than_its_reach(layers):
    distance, volume = layers
    dark = np.where(distance > 10, 5, volume).astype(np.float32)
    refined = refine_mask(dark, distance < 24, SIZES, reach=4.0)
    assert refined[distance < 20 - max(SIZES)].all()


def test_a_thin_bridge_does_not_let_the_mask_out(layers):
    distance, volume = layers
    bridged = volume.copy()
    middle = [n // 2 for n in volume.shape]
    bridged[middle[0], middle[1] :, middle[2]] = 120
    refined = refine_mask(bridged, distance < 21.5, SIZES)
    assert refined[distance > 26].sum() == 0


def test_a_mask_grows_only_where_it_may(layers):
    volume, distance = layers
    core = distance < 20
    allowed = distance < 21.5
    refined = refine_mask(np.full_like(volume, 100), core, SIZES, within=allowed)
    assert not (refined & ~allowed).any() and refined[core].all()


@pytest.mark.parametrize(
    ("fluid", "doubt"), [(0.1, 0), (FLUID_TO_GREY[0] - 0.01, 0), (sum(FLUID_TO_GREY) / 2, 0.5),
                         (FLUID_TO_GREY[1] + 0.01, 1), (0.9, 1)]
)  # fmt: skip
def test_fluid_as_bright_as_cortex_is_noticed(fluid, doubt):
    """Of a brain with a tenth of fluid, half of grey and the rest of white matter."""
    brain = np.repeat([80 * fluid, 80, 110], [100, 500, 400]).reshape(10, 10, 10)
    assert _fluid_like_cortex(brain, np.ones(brain.shape, bool)) == pytest.approx(doubt)


def test_without_a_dark_rim_the_mask_stays_within_reach(layers):
    distance, volume = layers
    refined = refine_mask(np.full_like(volume, 100), distance < 20, SIZES, reach=4.0)
    assert distance[refined].max() < 20 + 4 + max(SIZES)


@pytest.fixture
def no_registration(monkeypatch, head, head_template):
    """The head's true mask in place of a registration, and a record of the calls."""
    calls = []

    def extract(volume, affine, template, **options):
        calls.append(options)
        return head.mask

    monkeypatch.setattr(module, "extract_brain", extract)
    monkeypatch.setattr(module, "find_head_template", lambda name: (head_template, ["a note"]))
    return calls


def test_auto_looks_before_it_registers(head, small_brain, no_registration):
    mask, details = brain_mask(small_brain.volume, small_brain.affine)
    assert not no_registration
    assert details["Method"].startswith("none")
    assert details["Warnings"] == []
    volume_ml = small_brain.mask.sum() * 0.064
    assert details["Volume_ml"] == pytest.approx(volume_ml, rel=0.01)
    mask, details = brain_mask(head.volume, head.affine, seed=3, sloppy=True)
    assert no_registration == [{"seed": 3, "sloppy": True}]
    np.testing.assert_array_equal(mask, head.mask)
    assert details["Method"] == "SyN of a test's head"
    assert details["Warnings"] == ["a note"]


def test_force_and_skip_do_not_look(head, small_brain, no_registration):
    padded = np.pad(small_brain.volume, 6)
    _, details = brain_mask(padded, head.affine, mode="force")
    assert len(no_registration) == 1 and details["Method"].startswith("SyN")
    _, details = brain_mask(padded, head.affine, mode="skip")
    assert len(no_registration) == 1 and details["Method"].startswith("none")


def test_a_given_mask_is_used_as_it_is(head, no_registration):
    given = head.mask.copy()
    given[:, :20] = False
    mask, details = brain_mask(head.volume, head.affine, mode="force", given=given)
    np.testing.assert_array_equal(mask, given)
    assert not no_registration and "--derivatives" in details["Method"]


def test_where_the_scan_is_empty_there_is_no_brain(small_brain, no_registration):
    """A mask of another program, wider than the brain that was cut out."""
    wide = ndimage.binary_dilation(small_brain.mask, iterations=2)
    mask, details = brain_mask(small_brain.volume, small_brain.affine, given=wide)
    np.testing.assert_array_equal(mask, small_brain.mask)
    (said,) = details["Warnings"]
    share = 1 - small_brain.mask.sum() / wide.sum()
    assert f"{100 * share:.1f} % of the brain mask lies where the scan is empty" in said


def test_dark_voxels_within_the_brain_are_no_empty_scan(small_brain):
    """Nor are a few at its edge."""
    volume = small_brain.volume.copy()
    deep = ndimage.binary_erosion(small_brain.mask, iterations=5)
    assert deep.sum() > 0.02 * small_brain.mask.sum()
    volume[deep] = 0
    edge = small_brain.mask & ~ndimage.binary_erosion(small_brain.mask)
    few = np.argwhere(edge)[: small_brain.mask.sum() // 200]
    volume[tuple(few.T)] = 0
    mask, said = without_empty(volume, small_brain.mask)
    np.testing.assert_array_equal(mask, small_brain.mask)
    assert said == []


def test_what_has_no_brains_volume_is_refused(head):
    given = np.zeros_like(head.mask)
    given[10:14, 10:14, 10:14] = True
    with pytest.raises(InputError, match=r"4 ml.*no brain"):
        brain_mask(head.volume, head.affine, given=given)
    with pytest.raises(InputError, match="no brain"):
        brain_mask(np.ones_like(head.volume), head.affine, mode="skip")


@pytest.fixture
def shifted(small_brain):
    """Gives the small brain shifted by a constant, so that a share of it is negative."""

    def shift(share):
        inside = small_brain.volume[small_brain.mask]
        level = np.quantile(inside, share) if share else 0
        return np.where(small_brain.mask, small_brain.volume - level, 0).astype(np.float32)

    return shift


@pytest.mark.parametrize(("share", "said"), [(0, []), (0.005, []), (0.05, ["5.0 % of the brain"])])
def test_a_few_negative_intensities_are_told(share, said, shifted, small_brain):
    _, details = brain_mask(shifted(share), small_brain.affine, given=small_brain.mask)
    assert len(details["Warnings"]) == len(said)
    for sentence, start in zip(details["Warnings"], said, strict=True):
        assert sentence.startswith(start) and "counts as 0" in sentence


@pytest.mark.parametrize("mode", ["auto", "given"])
def test_a_z_scored_brain_is_refused(mode, small_brain):
    """Its dark half would be lost: with a mask of its own, and with one that is given."""
    volume, mask = small_brain.volume, small_brain.mask
    scored = np.where(mask, (volume - volume[mask].mean()) / volume[mask].std(), 0)
    given = mask if mode == "given" else None
    with pytest.raises(InputError, match=r"\d\d % of the brain is negative.*z-scored or shifted"):
        brain_mask(scored.astype(np.float32), small_brain.affine, given=given)


@pytest.fixture
def quick_extraction(head_template, monkeypatch):
    """Extraction in seconds, with the probability of brain multiplied."""
    monkeypatch.setattr(module, "SLOPPY_SPACING", 6.0)
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)

    def prepare(certainty):
        weak = replace(head_template, probability=certainty * head_template.probability)
        monkeypatch.setattr(module, "find_head_template", lambda name: (weak, []))

    return prepare


@pytest.mark.parametrize(("certainty", "doubt"), [(0.4, 0), (0.7, 1)])
def test_a_head_without_a_sure_brain_is_refused(
    certainty, doubt, head, quick_extraction, monkeypatch
):
    """Nowhere is it likelier than not, or nowhere sure though its border is in doubt."""
    quick_extraction(certainty)
    monkeypatch.setattr(module, "_fluid_like_cortex", lambda volume, core: doubt)
    with pytest.raises(InputError, match="has 0 ml, which is no brain"):
        brain_mask(head.volume, head.affine, mode="force", sloppy=True)


@pytest.mark.parametrize(
    ("shift", "said"), [(1000, "No intensity"), (190, "% of the brain is negative")]
)
def test_a_shifted_head_is_refused_for_what_it_is(shift, said, head, quick_extraction):
    """Fat stays positive where the brain does not."""
    quick_extraction(1.0)
    with pytest.raises(InputError, match=f"{said}.*original, non-negative intensities"):
        brain_mask(head.volume - shift, head.affine, mode="force", sloppy=True)
