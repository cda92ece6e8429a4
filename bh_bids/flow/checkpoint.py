"""Checkpoints of a training: written whole or not at all, loaded without pickle's code."""

import json
import os
from pathlib import Path

import torch

from ..errors import InputError, ModelError

CHECKPOINT = "last.pt"
LOG = "log.jsonl"


def save_checkpoint(folder, state):
    """Write the training's state, replacing the last one only once complete.

    Parameters
    ----------
    folder : pathlib.Path
    state : dict
        Of tensors, numbers, strings, and lists and dictionaries of such.
    """
    aside = folder / (CHECKPOINT + ".part")
    torch.save(state, aside)
    os.replace(aside, folder / CHECKPOINT)


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
        reason = str(error).splitlines()[0]
        raise ModelError(f"The checkpoint {path} cannot be read: {reason}") from None
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
    """

    def __init__(self, path, step):
        self._path = Path(path)
        self.entries = [e for e in _read_lines(self._path) if e["step"] <= step] if step else []
        aside = self._path.with_suffix(".part")
        aside.write_text("".join(json.dumps(e) + "\n" for e in self.entries))
        os.replace(aside, self._path)

    def append(self, entry):
        """Add one entry (a dictionary with "step") and write it at once."""
        self.entries.append(entry)
        with self._path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _read_lines(path):
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            # The line that was being written when the training was killed.
            return
