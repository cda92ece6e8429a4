"""Checkpoints of a training: written whole or not at all, loaded without pickle's code."""

import errno
import io
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import InputError, ModelError

CHECKPOINT = "last.pt"
LOG = "log.jsonl"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path):
    """Within this block a failure to write a training's file ends in one sentence.

    Parameters
    ----------
    path : pathlib.Path
        Named in the sentence.

    Raises
    ------
    ModelError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        remedy = "free space" if error.errno in _FULL else "mend this"
        raise ModelError(
            f"{path} cannot be written ({reason}): {remedy} and go on with --resume."
        ) from None


def save_checkpoint(folder, state):
    """Write the training's state, replacing the last one only once complete.

    Parameters
    ----------
    folder : pathlib.Path
    state : dict
        Of tensors, numbers, strings, and lists and dictionaries of such.

    Raises
    ------
    ModelError
        If it cannot be written; the last one is left as it was.
    """
    # In memory first: into a file, torch hides why the system refused to write.
    content = io.BytesIO()
    torch.save(state, content)
    _replace(folder / CHECKPOINT, content.getbuffer())


def load_checkpoint(folder, fingerprint):
    """Read the last state of a training.

    Parameters
    ----------
    folder : pathlib.Path
    fingerprint : dict
        What must be the same for the training to go on: sizes, settings, scans.

    Returns
    -------
    dict or None
        None where no checkpoint was written yet.

    Raises
    ------
    InputError
        If the training was begun with other settings or scans.
    ModelError
        If the checkpoint cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        begun = json.loads(state["fingerprint"])
    except Exception as error:
        reason = (str(error).splitlines() or ["it is empty or cut off"])[0]
        raise ModelError(
            f"The checkpoint {path} cannot be read, remove it to begin anew: {reason}"
        ) from None
    expected = json.loads(json.dumps(fingerprint))
    differing = sorted(
        name for name in begun.keys() | expected.keys() if begun.get(name) != expected.get(name)
    )
    if differing:
        raise InputError(
            f"The training in {folder} was begun with other {', '.join(differing)}: resume it with "
            "the same options, or train into another folder."
        )
    return state


class TrainingLog:
    """JSON-lines log of a training; a resumed one forgets what came after its checkpoint.

    Parameters
    ----------
    path : pathlib.Path
    step : int
        Entries beyond this step are dropped.

    Raises
    ------
    ModelError
        If it cannot be written.
    """

    def __init__(self, path, step):
        self._path = Path(path)
        self.entries = [e for e in _read_lines(self._path) if e["step"] <= step] if step else []
        _replace(self._path, "".join(map(_line, self.entries)).encode())

    def append(self, entry):
        """Add one entry (a dictionary with "step") and write it at once."""
        self.entries.append(entry)
        with writing(self._path), self._path.open("a") as stream:
            stream.write(_line(entry))


def _replace(path, content):
    """Write a file's bytes aside, to the disk itself, and then into its place."""
    aside = path.with_name(path.name + ".part")
    with writing(path):
        try:
            with open(aside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            raise


def _line(entry):
    return json.dumps(entry) + "\n"


def _read_lines(path):
    if not path.is_file():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            # The line that was being written when the training ended.
            return
