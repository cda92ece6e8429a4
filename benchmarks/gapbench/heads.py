"""Simulated traveling subjects, through the whole pipeline: every site is a gap.

The truth is the participant's scan at the target site, the source the same participant's scan at
another site; each went through brain extraction, N4 and registration by itself, so that even a
perfect method is limited by where two registrations of one head differ.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from bh_bids.errors import InputError
from bh_bids.intensity import to_target_units
from bh_bids.simulation.cases import Case

SPLIT = "heads"
TARGET_SITE = "siteA"
SITES = ("siteB", "siteC", "siteD", "siteE")


class HeadScans(NamedTuple):
    """One participant's preprocessed scans at all sites."""

    participant: str
    folder: Path
    space: str
    target: str
    split: str = SPLIT

    def case(self, gap, seed=0):
        """The case of a site; nothing is drawn here."""
        (truth, there), (source, here) = (self._read(s) for s in (self.target, gap))
        mask = there & here
        if not mask.any():
            raise InputError(f"The scans of sub-{self.participant} do not overlap.")
        truth, _ = to_target_units(truth, mask)
        return Case(truth, np.where(mask, source, 0).astype(np.float32), mask)

    def files(self, site):
        """Image and brain mask of a site."""
        stem = f"sub-{self.participant}_ses-{site}_space-{self.space}_res-1_desc-"
        anat = self.folder / f"sub-{self.participant}" / f"ses-{site}" / "anat"
        return tuple(anat / f"{stem}{n}.nii.gz" for n in ("preproc_T1w", "brain_mask"))

    def _read(self, site):
        image, mask = self.files(site)
        volume = np.asarray(nib.load(image).dataobj, dtype=np.float32)
        return volume, np.asarray(nib.load(mask).dataobj) > 0


def prepare(derivatives, heads, count, sites, *, target=TARGET_SITE, jobs=1, tell=print):
    """Simulate and preprocess what is missing of the traveling subjects.

    Parameters
    ----------
    derivatives : pathlib.Path
        Folder for the pipeline's derivatives; the simulated dataset and the pipeline's work
        folder lie beside it, with "_bids" and "_work" after its name.
    heads : pathlib.Path
        Whole-head label maps.
    count : int
        Participants.
    sites : sequence of str
        Source sites.
    target : str
        Target site.
    jobs : int
        Processes of the pipeline.
    tell : callable

    Raises
    ------
    InputError
        If one of the two programs fails.
    """
    bids, work = (derivatives.with_name(derivatives.name + e) for e in ("_bids", "_work"))
    if not bids.exists():
        tell(f"Simulating {count} participants at {', '.join([target, *sites])} in {bids}")
        _call(
            "simulate", bids, "--heads", heads, "--participants", count, "--sites", target, *sites
        )  # fmt: skip
    tell(f"Preprocessing them in {derivatives}")
    _call("run", bids, derivatives, "participant", "--anat-only", "--work-dir", work,
          "--nprocs", jobs)  # fmt: skip


def find_heads(derivatives, sites, space, target=TARGET_SITE, asked=None):
    """Participants whose scans of the target and of all source sites are there."""
    found = []
    for folder in sorted(Path(derivatives).glob("sub-*")):
        label = folder.name.removeprefix("sub-")
        if not folder.is_dir() or (asked is not None and label not in asked):
            continue
        scans = HeadScans(label, Path(derivatives), space, target)
        if all(f.exists() for s in (target, *sites) for f in scans.files(s)):
            found.append(scans)
    if not found:
        raise InputError(
            f"No participant with scans of {', '.join([target, *sites])} lies in {derivatives}."
        )
    return found


def _call(program, *arguments):
    code = f"from bh_bids.cli.{program} import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise InputError(f"bh-bids' program '{program}' failed: {' '.join(map(str, arguments))}")
