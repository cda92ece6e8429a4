"""Records of a benchmark in one JSON file: what is there is not measured again."""

import hashlib
import json
import os
from pathlib import Path

import bh_bids

# These tell records apart. The code is not one of them: see `stale`.
KEY = ("model", "step", "device", "split", "participant", "gap", "method", "seed")


def key(record):
    """What a record is of."""
    return tuple(record[k] for k in KEY)


def code_state(solver):
    """Hash of the sources that the results of a solver, or of the other methods, depend on."""
    root = Path(bh_bids.__file__).parent
    parts = ("harmonization", "mapping", "flow") if solver else ("comparators", "anatomy")
    digest = hashlib.sha256()
    for part in (*parts, "simulation", "evaluation"):
        for file in sorted((root / part).glob("*.py")):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Records:
    """Records of this run and of earlier ones.

    Parameters
    ----------
    path : pathlib.Path or None
        File to keep them in; None keeps them in memory.
    again : sequence of str
        Methods whose earlier records are dropped.
    """

    def __init__(self, path=None, again=()):
        self.path = path
        self._found = {}
        if path is not None and Path(path).exists():
            for record in json.loads(Path(path).read_text(encoding="utf-8")):
                if record["method"] not in again:
                    self._found[key(record)] = record

    def __contains__(self, wanted):
        return tuple(wanted) in self._found

    def get(self, wanted):
        """Record of a key."""
        return self._found[tuple(wanted)]

    def add(self, records):
        """Keep records, and write all of them: a run that is killed loses only what is running."""
        self._found.update((key(r), r) for r in records)
        if self.path is not None:
            aside = Path(f"{self.path}.part")
            lines = ",\n ".join(json.dumps(r) for r in self._found.values())
            aside.write_text(f"[{lines}]\n", encoding="utf-8")
            os.replace(aside, self.path)


def stale(records, states):
    """Note on records that other sources made, or None; ``states`` are those of each method."""
    others = [r for r in records if r.get("code") != states[r["method"]]]
    if not others:
        return None
    methods = ", ".join(sorted({r["method"] for r in others}))
    return (
        f"{len(others)} of {len(records)} records were made by an earlier state of the code "
        f"({methods}); measure them anew with --again METHOD."
    )
