"""The cases of a study, and opening one: the source, the truth, the result."""

import zlib
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .volumes import Case, read_harmonized, read_preproc, read_truth


class Opened(NamedTuple):
    """A case's volumes, target units, and the grid's affine.

    The truth and its mask are None where the participant has no target scan.
    """

    source: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    truth: np.ndarray | None
    truth_mask: np.ndarray | None


def open_case(case, store, seed=0):
    """Read a case's volumes, or simulate its source.

    Parameters
    ----------
    case : Case
    store : bh_bids.group.store.Store
    seed : int

    Returns
    -------
    Opened

    Raises
    ------
    InputError
        If a file cannot be read or grids differ.
    """
    if case.gap is not None:
        return _simulated(case, seed)
    source, mask, affine = read_preproc(case.scan)
    if case.target is None:
        return Opened(source, mask, affine, None, None)
    truth, truth_mask = read_truth(case.scan, case.target, store, seed)
    if not (mask & truth_mask).any():
        raise InputError(f"{case.scan.preproc} and {case.target.preproc} do not overlap.")
    return Opened(source, mask, affine, truth, truth_mask)


def _simulated(case, seed):
    from ..simulation.cases import make_case

    volume, mask, affine = read_preproc(case.scan)
    # Every participant has a bias field and noise of their own.
    own = zlib.crc32(case.scan.key.encode()) + seed
    made = make_case(case.gap, volume, mask, seed=own)
    return Opened(made.source, made.mask, affine, made.truth, made.mask)


def read_result(case, opened):
    """What the participant level made of a scan, target units.

    Parameters
    ----------
    case : Case
    opened : Opened

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)

    Raises
    ------
    InputError
        If it cannot be read, or is not on the scan's grid.
    """
    image = read_harmonized(case.scan)
    if image.shape != opened.source.shape:
        raise InputError(
            f"{case.scan.harmonized} and {case.scan.preproc} are not on one grid: process the "
            "scan again."
        )
    return np.where(opened.mask, image, 0).astype(np.float32)


def scan_cases(study, sites, pairs):
    """Cases of all scans that are not the target's.

    Parameters
    ----------
    study : bh_bids.group.study.Study
    sites : bh_bids.group.target.Sites
    pairs : dict of str to Record

    Returns
    -------
    list of Case
        By site, then in the study's order.
    """
    cases = [
        Case(record, sites.of[record.key], pairs.get(record.key))
        for record in study.records
        if record.preproc and sites.of[record.key] != sites.target
    ]
    return sorted(cases, key=lambda case: case.site)


def gap_cases(targets, gaps):
    """Cases of simulated gaps of target scans.

    Parameters
    ----------
    targets : list of Record
    gaps : sequence of str

    Returns
    -------
    list of Case
        By gap, then in the targets' order.
    """
    return [Case(record, gap, record, gap) for gap in gaps for record in targets]
