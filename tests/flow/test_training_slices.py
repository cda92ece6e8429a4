"""What the flow is trained on: the right scans, the right scale, reproducible crops."""

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from bh_bids.errors import InputError
from bh_bids.flow import domain
from bh_bids.flow.domain import describe_domain, pooled_quantiles
from bh_bids.flow.slices import (
    MIN_BRAIN_VOXELS,
    STEP,
    Scan,
    find_scans,
    read_volume,
    split_participants,
)

SPACE = "MNI152NLin2009aSym"


def test_constants_are_learned_from_one_scan_of_each_participant(monkeypatch, tiny_config):
    """The same head again would tell of it what no other head can."""
    seen = {}

    def keep(volumes, *_, **__):
        seen["volumes"] = [list(volumes()), list(volumes())]

    monkeypatch.setattr(domain, "calibrate", keep)
    volumes = [
        SimpleNamespace(participant=label, in_target_units=lambda k=k: k)
        for k, label in enumerate(["1", "1", "2", "3", "2"])
    ]
    said = []
    flow = SimpleNamespace(config=tiny_config)
    domain.learn_constants(volumes, None, {}, flow, said.append)
    assert seen["volumes"] == [[0, 2, 3], [0, 2, 3]]
    assert "each of the 3 participants" in said[0]
    domain.learn_constants(volumes[1:4], None, {}, flow, said.append)
    assert seen["volumes"][0] == [1, 2, 3] and len(said) == 1


@pytest.mark.parametrize("conditions", [("mask", "noise"), ("mask",)])
def test_a_flow_that_can_be_asked_of_the_contrast_is(
    monkeypatch, tiny_config, volumes, make_flow, conditions
):
    given = {}
    monkeypatch.setattr(domain, "calibrate", lambda *_, **settings: given.update(settings))
    intensity, mean = describe_domain(volumes, tiny_config)
    flow = make_flow(replace(tiny_config, conditions=conditions), dtype=torch.float32)
    domain.learn_constants(volumes, mean, intensity, flow, print)
    if conditions == ("mask",):
        assert given["slopes"] is None
        return
    scan = volumes[0].in_target_units()
    found = given["slopes"](scan, scan > 0)
    assert found.shape == (10,) and np.isfinite(found).all() == (abs(found.sum() - 1) < 1e-6)


@pytest.fixture(scope="module")
def volumes(derivatives, tiny_config):
    return [read_volume(scan, tiny_config) for scan in find_scans(derivatives, SPACE)]


@pytest.fixture
def one_scan(tmp_path, tiny_config, scan_writer, volume_maker):
    """Writes one scan with a changed volume, mask or affine and returns it."""

    def write(volume=None, mask=None, affine=None):
        usual, usual_mask = volume_maker(tiny_config, 3)
        image = scan_writer(
            tmp_path / "sub-1" / "anat",
            "sub-1",
            usual if volume is None else volume(usual.copy()),
            usual_mask if mask is None else mask(usual_mask.copy()),
            tiny_config.affine if affine is None else affine,
        )
        return Scan("1", image, image.with_name(image.name.replace("preproc_T1w", "brain_mask")))

    return write


def test_finds_sessions_and_ignores_other_spaces(derivatives, tmp_path, tiny_config, scan_writer):
    scans = find_scans(derivatives, SPACE)
    assert [s.participant for s in scans] == ["01", "02", "02", "03", "04", "05", "06"]
    assert all(s.mask.is_file() for s in scans)
    with pytest.raises(InputError, match="No preprocessed scans"):
        find_scans(derivatives, "OASIS30ANTs")


def test_missing_folder_and_mask(tmp_path, one_scan):
    with pytest.raises(InputError, match="does not exist"):
        find_scans(tmp_path / "nowhere", SPACE)
    one_scan().mask.unlink()
    with pytest.raises(InputError, match="no brain mask"):
        find_scans(tmp_path, SPACE)


@pytest.mark.parametrize("name", ["image", "mask"])
def test_content_that_was_not_fetched_is_named(tmp_path, one_scan, name):
    path = getattr(one_scan(), name)
    path.unlink()
    path.symlink_to("../.git/annex/objects/nowhere")
    with pytest.raises(
        InputError, match="dangling link: fetch its content .*datalad get"
    ) as caught:
        find_scans(tmp_path, SPACE)
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_scan(tmp_path, one_scan):
    path = one_scan().image
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="is no file"):
        find_scans(tmp_path, SPACE)


def test_volume_keeps_the_scan(derivatives, tiny_config):
    scan = find_scans(derivatives, SPACE)[2]
    volume = read_volume(scan, tiny_config)
    raw = np.asarray(nib.load(scan.image).dataobj)
    mask = np.asarray(nib.load(scan.mask).dataobj) > 0
    assert volume.scale == pytest.approx(np.percentile(raw[mask], 99))
    np.testing.assert_allclose(volume.in_target_units() * volume.scale, raw, atol=0.1)
    assert volume.counts().sum() == mask.sum()


def test_nearly_empty_slices_are_left_out(one_scan, tiny_config):
    def mask(usual):
        usual[:, :, :3] = False
        usual[:5, :5, 2] = True
        return usual

    volume = read_volume(one_scan(mask=mask), tiny_config)
    # Kept, as the slice below the next one; not drawn.
    assert volume.values[2].any() and volume.filled[0] == 3
    brain = [np.count_nonzero(values) for values in volume.values]
    assert volume.filled == tuple(k for k in range(12) if brain[k] >= MIN_BRAIN_VOXELS)


def test_mask_is_where_the_stored_values_are_positive(one_scan, tiny_config):
    """Also where the scan is zero or negative inside its mask."""

    def dark(usual):
        usual[14:18, 18:22, 5:7] = 0
        usual[14:18, 18:22, 7:9] = -3
        return usual

    scan = one_scan(volume=dark)
    volume = read_volume(scan, tiny_config)
    mask = np.asarray(nib.load(scan.mask).dataobj) > 0
    np.testing.assert_array_equal(volume.in_target_units() > 0, mask)
    assert volume.counts().sum() == mask.sum()


def nan(volume):
    volume[16, 20, 6] = np.nan
    return volume


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"volume": nan}, "NaN"),
        ({"volume": lambda v: np.full_like(v, 5.0)}, "constant"),
        ({"volume": lambda v: -v}, "percentile"),
        ({"volume": lambda v: v[:-8], "mask": lambda m: m[:-8]}, "grid"),
        ({"affine": np.eye(4)}, "grid"),
        ({"mask": np.zeros_like}, "empty"),
    ],
)
def test_unusable_scan_is_named(one_scan, tiny_config, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read_volume(one_scan(**changes), tiny_config)
    assert "sub-1_space" in str(caught.value)


def test_unreadable_scan_is_named(one_scan, tiny_config):
    scan = one_scan()
    scan.image.write_bytes(b"not an image")
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(scan, tiny_config)


def scans_of(*labels):
    return [Scan(label, None, None) for label in labels]


def test_split_is_by_participant_seeded_and_complete():
    scans = scans_of(*"aabbccddeeffgghh")
    training, held = split_participants(scans, validation=0.25, exclude=["sub-h"], seed=3)
    assert len(held) == 2
    assert sorted(training + held) == list("abcdefg")
    assert split_participants(scans, validation=0.25, exclude=["h"], seed=3) == (training, held)
    draws = {tuple(split_participants(scans, validation=0.25, seed=s)[1]) for s in range(10)}
    assert len(draws) > 3


def test_split_takes_named_participants():
    training, held = split_participants(scans_of(*"abcde"), validation=["sub-e", "b"])
    assert (training, held) == (["a", "c", "d"], ["b", "e"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation": ["z"]}, "No scans of participant"),
        ({"exclude": ["z"]}, "No scans of participant"),
        ({"exclude": ["a", "b"]}, "Only 3"),
        ({"validation": ["a"], "exclude": ["a"]}, "both"),
        ({"validation": list("abcde")}, "sets need a participant"),
        ({"validation": 1.5}, "between 0 and 1"),
    ],
)
def test_impossible_splits(options, message):
    with pytest.raises(InputError, match=message):
        split_participants(scans_of(*"abcde"), **options)


def test_split_takes_participants_with_a_scan_that_passed():
    scans = [*scans_of(*"abcde"), Scan("e", None, None, "fail"), Scan("f", None, None, "fail")]
    training, held = split_participants(scans, validation=["b"])
    assert training + held == ["a", "c", "d", "e", "b"]
    assert split_participants(scans, validation=["b"], exclude=["f"]) == (training, held)
    with pytest.raises(InputError, match="All scans of participant.s. f failed"):
        split_participants(scans, validation=["b", "f"])


def test_pooled_quantiles_match_numpy():
    values = np.random.default_rng(0).integers(0, 20_000, 5001)
    quantiles = pooled_quantiles(np.bincount(values, minlength=2**16), 257)
    expected = np.quantile(values, np.linspace(0, 1, 257), method="lower") * STEP
    np.testing.assert_allclose(quantiles, expected, atol=1.01 * STEP)
    assert quantiles[0] == values.min() * STEP and quantiles[-1] == values.max() * STEP


def test_domain_statistics(volumes, derivatives, tiny_config):
    intensity, mean = describe_domain(volumes, tiny_config)
    assert intensity["TargetScale"] == pytest.approx(np.median([v.scale for v in volumes]))
    assert len(intensity["Quantiles"]) == 257
    assert np.all(np.diff(intensity["Quantiles"]) >= 0)
    assert intensity["Modes"]["CSF"] < intensity["Modes"]["GM"] < intensity["Modes"]["WM"]
    whole = np.mean([v.in_target_units() for v in volumes], axis=0)
    np.testing.assert_allclose(mean, whole, atol=1e-6)
