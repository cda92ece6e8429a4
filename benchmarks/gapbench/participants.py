"""Which participants a run may look at, and a record of every look at the tests."""

import json
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from bh_bids.errors import InputError
from bh_bids.intensity import to_target_units
from bh_bids.simulation.cases import make_case

from .records import code_state

SPLITS = ("tune", "test")
# Kept with the benchmark: how often the test participants were looked at, and by what.
OPENINGS = Path(__file__).parents[1] / "test_openings.jsonl"


class Scan(NamedTuple):
    """A preprocessed scan of the target domain."""

    participant: str
    split: str
    image: Path
    mask: Path

    def case(self, gap, seed=0):
        """The case of a simulated gap."""
        return make_case(gap, *read_truth(self), seed=seed)


def identity(model):
    """Prefixes of the model's hashes: its weights, and its calibration where it has one."""
    calibration = model.metadata.get("CalibrationSHA256") or ""
    return "-".join(p for p in (model.weights_sha256[:12], calibration[:6]) if p)


def split_of(model):
    """Participants by split: the model knows those of "tune", and never saw those of "test"."""
    known = model.metadata
    tune = [*known.get("TrainingParticipants", []), *known.get("ValidationParticipants", [])]
    parts = {"tune": tune, "test": known.get("ExcludedParticipants") or []}
    parts = {k: sorted({str(p).removeprefix("sub-") for p in v}) for k, v in parts.items()}
    both = set(parts["tune"]) & set(parts["test"])
    if both:
        raise InputError(f"Participants in both splits of the model: {', '.join(sorted(both))}.")
    return parts


def find_scans(derivatives, model, splits, asked=None):
    """One scan of each participant of the splits (or of those asked for) that is there."""
    parts = split_of(model)
    asked = None if asked is None else {str(p).removeprefix("sub-") for p in asked}
    strangers = sorted((asked or set()) - set(parts["tune"]) - set(parts["test"]))
    if strangers:
        raise InputError(
            f"The model does not know the participants {', '.join(strangers)}: they belong to "
            "no split."
        )
    found = []
    for split in splits:
        for label in parts[split]:
            if asked is not None and label not in asked:
                continue
            folder = Path(derivatives) / f"sub-{label}"
            ending = f"_space-{model.space}_res-1_desc-preproc_T1w.nii.gz"
            files = sorted([*folder.glob(f"anat/*{ending}"), *folder.glob(f"ses-*/anat/*{ending}")])
            if files:
                mask = files[0].with_name(files[0].name.replace("preproc_T1w", "brain_mask"))
                found.append(Scan(label, split, files[0], mask))
    if not found:
        raise InputError(
            f"No scan of a participant of the split {' and '.join(splits)} lies in {derivatives}."
        )
    return found


@lru_cache(maxsize=1)
def read_truth(scan):
    """A scan in target units and its brain mask."""
    inside = np.asarray(nib.load(scan.mask).dataobj) > 0
    volume = np.asarray(nib.load(scan.image).dataobj, dtype=np.float32)
    return to_target_units(volume, inside)[0], inside


def log_opening(path, model, scans, methods, gaps, seeds, step):
    """Append one line: who looked at the test participants, and with what model and solver."""
    line = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "model": model.name,
        "version": model.version,
        "weights": identity(model),
        "code": code_state(solver=True),
        "participants": [s.participant for s in scans if s.split == "test"],
        "methods": list(methods),
        "gaps": list(gaps),
        "seeds": list(seeds),
        "slices_step": step,
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
