"""What was computed once, kept by content: a second run computes nothing again."""

import gzip
import hashlib
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..provenance import file_sha256
from ..reports.svg import write_text


class Store:
    """Small results as JSON files, and the hashes of the files that they were made of.

    Parameters
    ----------
    folder : pathlib.Path
        Made where missing. Files in it may be deleted at any time.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._index = self.folder / "hashes.json"
        known = _read(self._index)
        self._hashes = known if isinstance(known, dict) else {}
        self._changed = False

    def hash(self, path):
        """SHA-256 of a file, read again only where its size or time changed.

        Parameters
        ----------
        path : pathlib.Path

        Returns
        -------
        str
        """
        try:
            status = path.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            known = self._hashes.get(str(path))
            if not (isinstance(known, list) and known[:2] == stamp):
                known = self._hashes[str(path)] = [*stamp, file_sha256(path)]
                self._changed = True
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        return known[2]

    def recall(self, kind, about, compute):
        """A result that was computed before from the same, or its computation.

        Parameters
        ----------
        kind : str
            Folder of such results.
        about : object
            All that the result depends on, as JSON takes it.
        compute : callable
            Gives the result, as JSON takes it.

        Returns
        -------
        object
        """
        found = self.get(kind, about)
        if found is None:
            found = compute()
            write_text(self._path(kind, about), json.dumps(found))
        return found

    def get(self, kind, about):
        """A kept result, or None."""
        return _read(self._path(kind, about))

    def recall_array(self, kind, about, compute):
        """As :meth:`recall`, of an array.

        Parameters
        ----------
        kind, about
            See :meth:`recall`.
        compute : callable
            Gives a numpy.ndarray.

        Returns
        -------
        numpy.ndarray
        """
        path = self._path(kind, about, ".npy.gz")
        try:
            return np.lib.format.read_array(
                io.BytesIO(gzip.decompress(path.read_bytes())), allow_pickle=False
            )
        except (OSError, EOFError, ValueError, zlib.error):
            found = compute()
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(found), allow_pickle=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0))
        os.replace(aside, path)
        return found

    def _path(self, kind, about, ending=".json"):
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return self.folder / kind / key[:2] / f"{key[:32]}{ending}"

    def close(self):
        """Keep the files' hashes."""
        if self._changed:
            write_text(self._index, json.dumps(self._hashes))


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
