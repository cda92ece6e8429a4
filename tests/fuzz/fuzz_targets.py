"""All that parses foreign bytes: each target takes bytes and raises nothing but our own errors.

A target is a function of (content, folder); the folder is its own, and empty or as it left it.
``seeds`` gives valid inputs to start from.
"""

import gzip
import hashlib
import io
import json
import sys
from contextlib import redirect_stderr
from functools import cache

import nibabel as nib
import numpy as np

from bh_bids.errors import BHError

LARGEST = 1 << 16
"""Bytes of an input: beyond, a fuzzer learns nothing new."""


@cache
def _config():
    from bh_bids.flow.config import FlowConfig

    return FlowConfig(levels=1, steps=1, hidden_channels=2, blocks=1, bins=2, slice_shape=(16, 16),
                      slices=16)  # fmt: skip


@cache
def _model():
    """Files of a tiny model, by name."""
    import tempfile
    from pathlib import Path

    import torch

    from bh_bids.flow.model import save_model
    from bh_bids.flow.network import TargetFlow

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        mean = np.linspace(0, 1, 16**3, dtype=np.float32).reshape(16, 16, 16)
        save_model(folder, TargetFlow(_config()), mean, {"Name": "tiny", "Version": "0"})
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _lay(folder, **changed):
    """Write the tiny model's folder; what was changed is vouched for by the description."""
    from bh_bids.flow.registry import DESCRIPTION

    files = {**_model(), **{k.replace("__", "."): v for k, v in changed.items()}}
    if DESCRIPTION.replace(".", "__") not in changed:
        content = json.loads(files[DESCRIPTION])
        for name, field in (
            ("weights.safetensors", "WeightsSHA256"),
            ("mean.nii.gz", "MeanSHA256"),
        ):
            content[field] = hashlib.sha256(files[name]).hexdigest()
        files[DESCRIPTION] = json.dumps(content).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def description(content, folder):
    from bh_bids.flow.model import load_model

    _lay(folder, model__json=content)
    load_model(str(folder))


def weights(content, folder):
    from bh_bids.flow.model import load_model

    _lay(folder, weights__safetensors=content)
    load_model(str(folder))


def mean(content, folder):
    from bh_bids.flow.model import load_model

    _lay(folder, mean__nii__gz=content)
    load_model(str(folder))


def checkpoint(content, folder):
    from bh_bids.flow.interchange import import_checkpoint

    (folder / "a.pt").write_bytes(content)
    import_checkpoint(folder / "a.pt")


def image(content, folder):
    from bh_bids.anatomy.images import load_mask, load_t1w

    name = "a.nii.gz" if content[:2] == b"\x1f\x8b" else "a.nii"
    (folder / name).write_bytes(content)
    found = load_t1w(folder / name)
    assert np.isfinite(found.volume).all() and np.isfinite(found.affine).all()
    assert found.volume.ndim == 3 and found.volume.min() < found.volume.max()
    load_mask(folder / name, found.volume.shape, found.affine, of="lesion")


def sidecar(content, folder):
    from bh_bids.dataset import _metadata, _sidecars_of

    anat = folder / "sub-01" / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    (anat / "sub-01_T1w.json").write_bytes(content)
    found, problems = _metadata(anat / "sub-01_T1w.nii.gz", folder, _sidecars_of)
    assert isinstance(found, dict) and all(isinstance(told, str) for told in problems)


def dataset(content, folder):
    from bh_bids.dataset import check_dataset

    (folder / "dataset_description.json").write_bytes(content)
    check_dataset(folder)


def bids_filter(content, folder):
    from bh_bids.filters import query_values, read_filter_file

    (folder / "f.json").write_bytes(content)
    query_values(read_filter_file(folder / "f.json")["t1w"])


def configuration(content, folder):
    from bh_bids.cli.parser import parse

    (folder / "c.toml").write_bytes(content)
    try:
        parse([str(folder), str(folder / "out"), "participant", "--config-file",
               str(folder / "c.toml")])  # fmt: skip
    except SystemExit as wrong:  # usage, told by argparse
        assert wrong.code == 2


def participants(content, folder):
    from bh_bids.group.study import read_participants

    (folder / "participants.tsv").write_bytes(content)
    rows = read_participants(folder, [])
    assert all(isinstance(label, str) for label in rows)


def report(content, folder):
    """The page of a participant whose sidecar is anything; no element of it comes from there."""
    from bh_bids.reports.assemble import write_participant_report

    anat = folder / "sub-01" / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    (anat / "sub-01_desc-harmonized_T1w.json").write_bytes(content)
    (anat / "sub-01_desc-harmonization_metrics.tsv").write_bytes(content)
    text = write_participant_report(folder, "01").read_text(encoding="utf-8")
    assert "<evil" not in text.lower()


def viewer(content, folder):
    from bh_bids.reports.viewer import preview, read_bundle

    try:
        bundle = read_bundle(content.decode("utf-8", "replace"))
        for name in ("source", "harmonized"):
            preview(bundle, name)
    except ValueError:  # what it says it raises; the page then leaves the viewer out
        pass


def figure(content, folder):
    from bh_bids.reports.svg import inline, is_inert

    text = content.decode("utf-8", "replace")
    if is_inert(text):
        assert "<script" not in inline(text, 1).lower()


def crash(content, folder):
    from bh_bids.reports.collect import _crash

    (folder / "crash-1.txt").write_bytes(content)
    _crash(folder / "crash-1.txt")


TARGETS = {
    function.__name__: function
    for function in (
        *(description, weights, mean, checkpoint, image, sidecar, dataset, bids_filter),
        *(configuration, participants, report, viewer, figure, crash),
    )
}


def run(name, content, folder):
    """One input through one target; the program's own errors are what it should give."""
    if len(content) > LARGEST:
        return
    with redirect_stderr(io.StringIO()):
        try:
            TARGETS[name](content, folder)
        except BHError as error:
            assert str(error) and "Traceback" not in str(error)


def _nifti(packed=False, **header):
    volume = np.arange(16**3, dtype=np.uint8).reshape(16, 16, 16)
    found = nib.Nifti1Image(volume, np.diag([2.0, 2, 2, 1]))
    found.set_sform(found.affine, 1)
    content = found.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content


@cache
def _torch_file():
    import torch

    from bh_bids.flow.interchange import export_checkpoint
    from bh_bids.flow.network import TargetFlow

    torch.manual_seed(0)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        export_checkpoint(TargetFlow(_config()), path)
        return path.read_bytes()


@cache
def _bundle():
    """Volumes of a slice viewer."""
    from bh_bids.reports.viewer import as_script_text, viewer_bundle

    volume = np.linspace(0, 1, 6**3, dtype=np.float32).reshape(6, 6, 6)
    volumes = {"source": volume, "harmonized": volume**2}
    return as_script_text(viewer_bundle(volumes, volume > 0.2, np.eye(4))).encode()


def seeds(name):
    """Valid inputs of a target."""
    files = _model()
    block = {
        "Model": "m <evil>", "Method": "map", "Parameters": {"bias": True}, "Guards": ["<evil>"],
        "Decisions": {"Bias": {"Applied": True, "Spread": 0.1}, "Coverage": 0.5}, "Seed": 0,
        "SoftwareVersions": {"bh-bids": "0"}, "CommandLine": "bh-bids",
        "Structure": {"EdgesLost": 0},
    }  # fmt: skip
    table = "participant_id\tage\nsub-01\t30\n"
    return {
        "description": [files["model.json"]],
        "weights": [files["weights.safetensors"]],
        "mean": [files["mean.nii.gz"]],
        "checkpoint": [_torch_file()],
        "image": [_nifti(), _nifti(packed=True)],
        "sidecar": [b'{"Manufacturer": "Siemens", "MagneticFieldStrength": 3}'],
        "dataset": [b'{"Name": "x", "BIDSVersion": "1.10.0"}'],
        "bids_filter": [b'{"t1w": {"acquisition": "mprage", "session": null, "run": [1, 2]}}'],
        "configuration": [
            b'nprocs = 2\nmodel = "default"\n[bids_filters.t1w]\nrun = 1\n',
            b'participant_label = ["01"]\nderivatives = {a = "."}\nmem_gb = 1.5\n',
        ],
        "participants": [table.encode(), ("\ufeff" + table.replace("\n", "\r\n")).encode()],
        "report": [json.dumps({"Harmonization": block, "Manufacturer": "<evil>"}).encode()],
        "viewer": [_bundle()],
        "figure": [b'<svg xmlns="http://www.w3.org/2000/svg"><g><path d="M0 0"/></g></svg>'],
        "crash": [b"Node: a.b\n\nTraceback:\n\nValueError: x\n"],
    }[name]


if sys.flags.optimize:
    raise RuntimeError("the targets are assertions: run them without -O")
