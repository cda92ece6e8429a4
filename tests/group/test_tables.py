"""The group level's table against the participants' own tables."""

import json

import pandas as pd
import pytest

from bh_bids.errors import InputError
from bh_bids.evaluation.participant import METRICS, write_tsv
from bh_bids.group.run import run_group
from bh_bids.settings import Settings


def row(participant, session, value):
    """A table's row with all columns."""
    filled = {name: value for name in METRICS}
    return {**filled, "participant_id": participant, "session_id": session, "guards": ""}


@pytest.fixture
def derivatives(tmp_path):
    """Derivatives of two participants, one of them with two sessions."""
    for participant, session in (("01", "A"), ("01", "B"), ("02", None)):
        folder = tmp_path / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
        folder.mkdir(parents=True)
        key = f"sub-{participant}" + (f"_ses-{session}" if session else "")
        table = row(f"sub-{participant}", f"ses-{session}" if session else None, 0.5)
        write_tsv([table], folder / f"{key}_desc-harmonization_metrics.tsv")
    return tmp_path


def collect(folder):
    """Run the group level; it gets no raw data."""
    settings = Settings(bids_dir=folder / "absent", output_dir=folder, work_dir=folder / "w")
    return run_group(settings)


def test_every_scan_is_one_row(derivatives):
    assert collect(derivatives) == 0
    table = pd.read_csv(
        derivatives / "group_desc-harmonization_metrics.tsv", sep="\t", na_values="n/a"
    )
    assert sorted(zip(table.participant_id, table.session_id.fillna(""), strict=True)) == [
        ("sub-01", "ses-A"),
        ("sub-01", "ses-B"),
        ("sub-02", ""),
    ]
    assert (table.ncc_source == 0.5).all()
    dictionary = json.loads(
        (derivatives / "group_desc-harmonization_metrics.json").read_text(encoding="utf-8")
    )
    assert set(table.columns) == set(dictionary)


def test_repeating_changes_nothing(derivatives):
    collect(derivatives)
    path = derivatives / "group_desc-harmonization_metrics.tsv"
    first = path.read_bytes()
    collect(derivatives)
    assert path.read_bytes() == first


def test_participant_without_results_is_named(derivatives, capsys):
    (derivatives / "sub-03" / "log").mkdir(parents=True)
    assert collect(derivatives) == 1
    assert "sub-03" in capsys.readouterr().err


def test_nothing_to_collect_is_said(tmp_path):
    with pytest.raises(InputError, match="run the participant level first"):
        collect(tmp_path)
