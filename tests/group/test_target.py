"""Which scans are the target's: a table of cases."""

import pytest

from bh_bids.errors import InputError
from bh_bids.group.study import Record, Study
from bh_bids.group.target import choose_target, find_pairs


def record(key, **metadata):
    names = dict(part.split("-") for part in key.split("_"))
    return Record(key, names["sub"], names.get("ses", ""), preproc="there", metadata=metadata)


def study(*records, **participants):
    rows = {label.removeprefix("p"): row for label, row in participants.items()}
    return Study("out", list(records), rows, {}, [])


TRIO = {"Manufacturer": "Siemens", "ManufacturersModelName": "TrioTim", "MagneticFieldStrength": 3}
SIGNA = {"Manufacturer": "GE", "ManufacturersModelName": "Signa", "MagneticFieldStrength": 1.5}
STUDY = study(
    record("sub-01_ses-A_acq-mprage", **TRIO),
    record("sub-01_ses-B_acq-spgr", **SIGNA),
    record("sub-02_ses-B_acq-spgr", **SIGNA),
    record("sub-02_ses-A_acq-mprage", **TRIO),
    record("sub-03_ses-C_acq-spgr"),
    p01={"site": "Bern", "group": None},
    p02={"site": "Kyoto", "group": "patient"},
    p03={"site": "Kyoto", "group": "control"},
)


@pytest.mark.parametrize(
    ("target", "keys", "site"),
    [
        ("ses-A", {"sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"}, "A"),
        ("A", {"sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"}, "A"),
        ("mprage", {"sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"}, "mprage"),
        ("acq-spgr", {"sub-01_ses-B_acq-spgr", "sub-02_ses-B_acq-spgr", "sub-03_ses-C_acq-spgr"},
         "spgr"),
        ("site=Bern", {"sub-01_ses-A_acq-mprage", "sub-01_ses-B_acq-spgr"}, "Bern"),
        ("site=bern", {"sub-01_ses-A_acq-mprage", "sub-01_ses-B_acq-spgr"}, "Bern"),
        ("ManufacturersModelName=TrioTim", {"sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"},
         "TrioTim"),
        ("MagneticFieldStrength=1.5", {"sub-01_ses-B_acq-spgr", "sub-02_ses-B_acq-spgr"}, "1.5"),
        ("MagneticFieldStrength=3", {"sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"}, "3"),
    ],
)  # fmt: skip
def test_targets_by_what_was_asked_for(target, keys, site):
    found = choose_target(STUDY, target)
    assert {k for k, s in found.of.items() if s == found.target} == keys
    assert found.target == site and set(found.of) == {r.key for r in STUDY.records}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("ses-Z", "session has A, B, C"),
        ("site=Rome", "site has Bern, Kyoto"),
        ("coil=32", "neither a column of participants.tsv .group, site. nor a field"),
        ("ses A", "not understood"),
        ("task-rest", "not understood"),
        ("ManufacturersModelName=Prisma", "has Signa, TrioTim"),
    ],
)
def test_targets_that_are_not_there_are_told_from_what_there_is(target, says):
    with pytest.raises(InputError, match=says):
        choose_target(STUDY, target)


def test_one_scanner_spelled_in_two_ways_is_one_site():
    names = ["SIEMENS", "Siemens", "GE", "siemens "]
    scans = [record(f"sub-{k}", Manufacturer=name) for k, name in enumerate(names)]
    found = choose_target(study(*scans), "Manufacturer=siemens")
    assert [found.of[s.key] == found.target for s in scans] == [True, True, False, True]


def test_all_scans_may_be_the_targets():
    found = choose_target(STUDY, "all")
    assert set(found.of.values()) == {found.target} and len(found.of) == 5


def test_a_label_of_both_a_session_and_an_acquisition_is_refused():
    both = study(record("sub-01_ses-trio_acq-spgr"), record("sub-01_ses-x_acq-trio"))
    with pytest.raises(InputError, match="ses-trio or acq-trio"):
        choose_target(both, "trio")
    assert choose_target(both, "acq-trio").target == "trio"


def test_scans_without_the_field_are_of_an_unknown_site():
    found = choose_target(STUDY, "ManufacturersModelName=TrioTim")
    assert found.of["sub-03_ses-C_acq-spgr"] == "unknown"


def test_the_models_card_tells_the_target_where_nothing_is_asked():
    card = {"Manufacturer": "siemens", "ManufacturersModelName": "TrioTim", "Description": "x"}
    found = choose_target(STUDY, card=card)
    assert {k for k, s in found.of.items() if s == found.target} == {
        "sub-01_ses-A_acq-mprage", "sub-02_ses-A_acq-mprage"
    }  # fmt: skip
    assert found.certain
    assert found.of["sub-01_ses-B_acq-spgr"] == "GE Signa 1.5 T"


def test_a_card_with_a_manufacturer_alone_is_doubted():
    found = choose_target(STUDY, card={"Manufacturer": "GE"})
    assert not found.certain and "--target" in found.sentence


@pytest.mark.parametrize("card", [None, {}, {"Description": "x"}, {"Manufacturer": "Philips"}])
def test_without_a_target_sites_are_told_all_the_same(card):
    found = choose_target(STUDY, card=card)
    assert found.target is None and len(set(found.of.values())) == 3
    assert find_pairs(STUDY, found) == {}


def test_sites_are_sessions_where_no_sidecar_tells_a_scanner():
    bare = study(record("sub-01_ses-A"), record("sub-01_ses-B"), record("sub-02"))
    assert set(choose_target(bare).of.values()) == {"ses-A", "ses-B", "unknown"}


def test_pairs_are_of_one_participant_and_the_first_target_scan():
    extra = record("sub-02_ses-A_acq-mprage_run-2", **TRIO)
    both = study(*STUDY.records, extra)
    pairs = find_pairs(both, choose_target(both, "ses-A"))
    assert {k: r.key for k, r in pairs.items()} == {
        "sub-01_ses-B_acq-spgr": "sub-01_ses-A_acq-mprage",
        "sub-02_ses-B_acq-spgr": "sub-02_ses-A_acq-mprage",
    }
