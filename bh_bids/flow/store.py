"""Training scans on disk: one memory-mapped file of slices, so that none needs to fit in memory."""

import hashlib
import json
import mmap
import os
from pathlib import Path

import numpy as np

from ..errors import InputError
from .slices import Volume, read_volume

SLICES, INDEX = "slices.npy", "index.json"
# Changes whenever the same scans would be stored as other bytes.
LAYOUT = 1


class SliceStore:
    """Scans in target units, in a file that is mapped, not read, into memory.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``slices.npy``, uint16, shape (scans, slices, x, y), and ``index.json``.

    Attributes
    ----------
    fingerprint : str
        Of the files and the grid it was built from.
    volumes : list of Volume
        Their values are views of the file.

    Raises
    ------
    InputError
        If the folder holds no whole store.
    """

    def __init__(self, folder):
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text())
            with open(folder / SLICES, "rb") as stream:
                np.lib.format.read_magic(stream)
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                start = stream.tell()
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            values = np.ndarray(shape, dtype, buffer=self._map, offset=start)
            self.fingerprint = index["Fingerprint"]
            self.volumes = [
                Volume(values=values[k], **{n: _frozen(v) for n, v in entry.items()})
                for k, entry in enumerate(index["Scans"])
            ]
        except Exception as error:
            raise InputError(f"The store of slices {folder} cannot be read: {error}") from None

    def release(self):
        """Give back the memory that the slices read so far take in this process."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def open_store(folder, scans, config, report):
    """Open a store of scans; build it where there is none of just these files and this grid.

    Parameters
    ----------
    folder : str or pathlib.Path
        Made where missing. One training at a time may build in it.
    scans : sequence of Scan
    config : FlowConfig
        Gives the grid.
    report : callable
        Called with one sentence at a time.

    Returns
    -------
    SliceStore
        Volumes in the order of ``scans``.

    Raises
    ------
    InputError
        If a scan cannot be used (:func:`bh_bids.flow.slices.read_volume`), or the folder cannot
        be written.
    """
    folder = Path(folder)
    fingerprint = fingerprint_of(scans, config)
    try:
        store = SliceStore(folder)
        if store.fingerprint == fingerprint:
            return store
    except InputError:
        pass
    report(f"Reading {len(scans)} scans.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _build(folder, scans, config, fingerprint)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}.") from None
    return SliceStore(folder)


def fingerprint_of(scans, config):
    """SHA-256 of what decides a store's bytes: the files' paths, sizes and times, and the grid.

    Parameters
    ----------
    scans : sequence of Scan
    config : FlowConfig

    Returns
    -------
    str
    """
    files = [path for scan in scans for path in (scan.image, scan.mask)]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    grid = [config.space, config.shape, config.affine.tolist()]
    return hashlib.sha256(json.dumps([LAYOUT, grid, stats]).encode()).hexdigest()


def _build(folder, scans, config, fingerprint):
    """Write the store scan by scan, aside; the index, without which it is none, comes last."""
    shape = (len(scans), config.slices, *config.slice_shape)
    header = {"descr": "<u2", "fortran_order": False, "shape": shape}
    entries = []
    with open(folder / (SLICES + ".part"), "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for scan in scans:
            volume = read_volume(scan, config)
            stream.write(volume.values.astype("<u2").data)
            entries.append(_entry(volume))
        stream.flush()
        os.fsync(stream.fileno())
    (folder / INDEX).unlink(missing_ok=True)
    os.replace(folder / (SLICES + ".part"), folder / SLICES)
    aside = folder / (INDEX + ".part")
    aside.write_text(json.dumps({"Fingerprint": fingerprint, "Scans": entries}))
    os.replace(aside, folder / INDEX)


def _entry(volume):
    return {name: v for name, v in vars(volume).items() if name != "values"}


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value
