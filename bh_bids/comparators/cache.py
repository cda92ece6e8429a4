"""What training left behind, kept by content: the same scans and settings are trained on once."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import InputError
from .base import silent

_DIGEST = "ContentSHA256"


def fit_cached(comparator, sources, targets, folder, *, seed=0, device="auto", report=silent):
    """Fit a comparator, or take the fit of an earlier run with the same scans.

    Parameters
    ----------
    comparator : Comparator
        One that does not train is fitted anew: reading its scans is all that takes time.
    sources, targets, seed, device, report
        See :meth:`bh_bids.comparators.base.Comparator.fit`. The device is no part of what is
        compared: a network trained on a GPU serves a run on the CPU.
    folder : str or pathlib.Path
        Of the cache; made where missing. Files in it may be deleted at any time.

    Returns
    -------
    Comparator
        The comparator, fitted.

    Raises
    ------
    InputError, DeviceError
        As :meth:`~bh_bids.comparators.base.Comparator.fit`, or if the folder cannot be written.
    """
    if not comparator.trains:
        return comparator.fit(sources, targets, seed=seed, device=device, report=report)

    comparator.device = device

    def train():
        comparator.fit(sources, targets, seed=seed, device=device, report=report)
        return comparator.state()

    scans = [("source", s) for s in content_hashes(sources)]
    scans += [("target", s) for s in content_hashes(targets)]
    recall(comparator, scans, train, folder, seed=seed, report=report)
    return comparator


def content_hashes(scans):
    """Hash of each scan's volume and mask.

    Parameters
    ----------
    scans : sequence of Scan

    Returns
    -------
    list of str
        SHA-256; the participant's label is no part of it.
    """
    return [hash_arrays(scan.volume, np.packbits(scan.mask), scan.mask.shape) for scan in scans]


def hash_arrays(*arrays):
    """SHA-256 of arrays' types, shapes and values.

    Parameters
    ----------
    *arrays : array_like

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def recall(learner, scans, train, folder, *, seed, report):
    """Restore a learner from the cache, or train it and keep its state.

    Parameters
    ----------
    learner : object
        With ``name``, ``title``, ``recipe``, ``settings()`` and ``restore(state)``, as a
        :class:`~bh_bids.comparators.base.Comparator`.
    scans : list
        Of all that it is trained on: hashes and roles, as JSON takes them.
    train : callable
        Trains the learner and gives its state.
    folder : str or pathlib.Path
    seed : int
    report : callable
    """
    about = {
        "Name": learner.name,
        "Recipe": learner.recipe,
        "Settings": learner.settings(),
        "Seed": seed,
        "Scans": scans,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = Path(folder) / f"{learner.name}-{key[:24]}.safetensors"
    if path.is_file():
        try:
            learner.restore(_read(path))
        except Exception as error:
            reason = str(error).splitlines()[0]
            report(f"{path} cannot be used and is trained anew: {reason}")
        else:
            report(f"{learner.title}: trained before ({path.name}).")
            return
    _write(path, train(), about)


def _read(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        digest = (stored.metadata() or {}).get(_DIGEST)
        state = {name: stored.get_tensor(name) for name in stored.keys()}
    if digest != _digest(state):
        raise InputError("its content is not what was written.")
    return state


def _write(path, state, about):
    from safetensors.numpy import save

    state = {name: np.ascontiguousarray(state[name]) for name in sorted(state)}
    metadata = {name: json.dumps(value) for name, value in about.items()}
    data = save(state, metadata | {_DIGEST: _digest(state)})
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None


def _digest(state):
    names = sorted(state)
    return hash_arrays(*(state[name] for name in names)) + hash_arrays(np.array(names))[:16]
