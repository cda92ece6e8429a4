"""Which scans of a participant share a map of intensities."""

from pathlib import Path

import pytest

from bh_bids.dataset import Scan
from bh_bids.visits import difference, kept_apart, of_one_contrast


def make(name, **metadata):
    return Scan(Path(f"/in/sub-01/anat/{name}_T1w.nii.gz"), "01", None, "bids:raw:x", metadata)


def grouped(*scans):
    return [[scan.key for scan in group] for group in of_one_contrast(scans)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"MagneticFieldStrength": 3}, {"MagneticFieldStrength": "3.0"}),
        ({"MagneticFieldStrength": 3}, {"MagneticFieldStrength": 2.89}),
        ({"Manufacturer": "SIEMENS "}, {"Manufacturer": "Siemens"}),
        ({"Manufacturer": "Siemens", "EchoTime": 0.003}, {"Manufacturer": "Siemens"}),
        ({"EchoTime": 0.00298}, {"EchoTime": 0.00306}),
        ({"SeriesNumber": 4}, {"SeriesNumber": 9}),
    ],
)
def test_visits_of_one_scanner_and_sequence_are_alike(one, other):
    scans = make("sub-01_ses-A_run-1", **one), make("sub-01_ses-B_run-2", **other)
    assert grouped(*scans) == [["sub-01_ses-A_run-1", "sub-01_ses-B_run-2"]]
    assert difference(*scans) == "" and kept_apart(scans[0], scans) == []


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("sub-01_ses-A_acq-mprage", "sub-01_ses-A_acq-fspgr", "acq mprage and fspgr"),
        ("sub-01_ses-A", "sub-01_ses-B_ce-gad", "ce none and gad"),
        ("sub-01_rec-norm", "sub-01", "rec norm and none"),
        ("sub-01_echo-1", "sub-01_echo-4", "echo 1 and 4"),
    ],
)
def test_other_entities_are_other_contrasts(one, other, why):
    scans = make(one), make(other)
    assert len(of_one_contrast(scans)) == 2
    assert difference(*scans) == why
    # The names say it: nothing to warn of.
    assert kept_apart(scans[0], scans) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ManufacturersModelName": "Skyra"}, {"ManufacturersModelName": "Prisma"}),
        ({"MagneticFieldStrength": 1.5}, {"MagneticFieldStrength": 3}),
        ({"FlipAngle": 8}, {"FlipAngle": 12}),
        ({"InversionTime": 0.9}, {"InversionTime": 1.1}),
        ({"RepetitionTime": 2.3}, {"RepetitionTime": "n/a"}),
    ],
)
def test_another_scanner_or_sequence_is_another_contrast(one, other):
    scans = make("sub-01_ses-A", **one), make("sub-01_ses-B", **other)
    assert len(of_one_contrast(scans)) == 2
    (said,) = kept_apart(scans[0], scans)
    assert f"{next(iter(one))} {next(iter(one.values()))} and" in said
    assert "sub-01_ses-B_T1w.nii.gz" in said


def test_a_visit_without_sidecar_does_not_bring_two_contrasts_together():
    long, silent, short = (
        make("sub-01_ses-A", EchoTime=0.006),
        make("sub-01_ses-B"),
        make("sub-01_ses-C", EchoTime=0.003),
    )
    expected = [["sub-01_ses-A", "sub-01_ses-B"], ["sub-01_ses-C"]]
    assert grouped(long, silent, short) == expected
    assert [len(kept_apart(scan, (long, silent, short))) for scan in (long, silent, short)] == [
        1, 1, 2,
    ]  # fmt: skip
