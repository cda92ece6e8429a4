"""The group level: every participant's metrics in one table. It needs no raw data."""

import csv
import json
import sys
from pathlib import Path

from .errors import InputError
from .evaluation.participant import METRICS, write_tsv
from .reports.svg import write_text


def collect_metrics(settings):
    """Write ``group_desc-harmonization_metrics.tsv`` and its data dictionary.

    Parameters
    ----------
    settings : bh_bids.settings.Settings

    Returns
    -------
    int
        0; 1 if a participant of the derivatives has no metrics.

    Raises
    ------
    InputError
        If there are no metrics at all.
    """
    output = Path(settings.output_dir)
    tables = sorted(output.glob("sub-*/**/anat/*_desc-harmonization_metrics.tsv"))
    if not tables:
        raise InputError(
            f"{output} holds no participant's metrics: run the participant level first."
        )
    rows = []
    for path in tables:
        with open(path, encoding="utf-8", newline="") as stream:
            rows += list(csv.DictReader(stream, delimiter="\t"))
    path = output / "group_desc-harmonization_metrics.tsv"
    aside = path.with_name(f".{path.name}.{settings.run_uuid}")
    write_tsv(rows, aside).replace(path)
    dictionary = {name: {"Description": text} for name, text in METRICS.items()}
    write_text(path.with_suffix(".json"), json.dumps(dictionary, indent=2) + "\n")
    print(f"{len(rows)} scans: {path}")
    found = {row["participant_id"] for row in rows}
    missing = sorted(p.name for p in output.glob("sub-*") if p.is_dir() and p.name not in found)
    if missing:
        print(f"bh-bids: no results of {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0
