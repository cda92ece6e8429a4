"""Model folders that are damaged or hostile: refused in one sentence, nothing in them is run."""

import gzip
import hashlib
import json
import pickle
import shutil
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bh_bids.cli.model import main as bh_model
from bh_bids.errors import ModelError
from bh_bids.flow.model import load_model

WEIGHTS, MEAN, CONSTANTS = "weights.safetensors", "mean.nii.gz", "calibration.safetensors"
HASHES = {WEIGHTS: "WeightsSHA256", MEAN: "MeanSHA256", CONSTANTS: "CalibrationSHA256"}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def put(name, content, vouched=True):
    """Replace a file; ``vouched`` lets model.json know it, as an attacker would."""

    def change(folder):
        data = content(folder) if callable(content) else content
        (folder / name).write_bytes(data)
        if vouched and name in HASHES:
            described(**{HASHES[name]: hashlib.sha256(data).hexdigest()})(folder)

    return change


def described(**fields):
    def change(folder):
        path = folder / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def configured(**fields):
    def change(folder):
        config = json.loads((folder / "model.json").read_text())["Config"]
        described(Config={**config, **fields})(folder)

    return change


def without(name):
    return lambda folder: (folder / name).unlink()


def arrays(name, change):
    def content(folder):
        found = load((folder / name).read_bytes())
        change(found)
        return save(found)

    return put(name, content)


def first(value):
    def change(found):
        name = next(n for n, a in sorted(found.items()) if a.dtype.kind == "f" and a.size > 1)
        found[name] = value(found[name])

    return change


def trap(folder):
    return pickle.dumps(Payload(folder / "executed"))


def torch_trap(folder):
    torch.save({"weights": Payload(folder / "executed")}, folder / "x.pt")
    return (folder / "x.pt").read_bytes()


def bomb(folder):
    """The mean, and half a gigabyte of zeros behind it, in half a megabyte."""
    return gzip.compress(gzip.decompress((folder / MEAN).read_bytes()) + bytes(500_000_000), 1)


def claims(shape):
    def content(folder):
        raw = bytearray(gzip.decompress((folder / MEAN).read_bytes()))
        raw[40:56] = np.array([3, *shape, 1, 1, 1, 1], "<i2").tobytes()
        return gzip.compress(bytes(raw))

    return content


def nan_mean(folder):
    image = nib.load(folder / MEAN)
    image = nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine)
    return gzip.compress(image.to_bytes())


def nested(depth):
    return b'{"Config":' * depth + b"1" + b"}" * depth


def header(text):
    """A safetensors file of that header."""
    return len(text).to_bytes(8, "little") + text


BAD = {
    "no description": (without("model.json"), "no model.json"),
    "no weights": (without(WEIGHTS), WEIGHTS),
    "no mean": (without(MEAN), MEAN),
    "no constants": (without(CONSTANTS), CONSTANTS),
    "description is no JSON": (put("model.json", b"{"), "not valid JSON"),
    "description is a list": (put("model.json", b"[]"), "JSON object"),
    "description nested without end": (put("model.json", nested(100_000)), "nested too deeply"),
    "description is binary": (put("model.json", bytes(range(256))), "not valid JSON"),
    "no Config": (described(Config=None), "Config"),
    "Config of an unknown field": (configured(os="x"), "Unknown field"),
    "Config of wrong types": (configured(levels="3"), "levels"),
    "Config of a huge network": (configured(hidden_channels=10**6), "larger network"),
    "Config of endless steps": (configured(steps=10**9), "larger network"),
    "Config of a huge grid": (configured(slice_shape=[2**20, 2**20]), "no side may"),
    "Config of numbers that are none": (configured(tail_bound=float("nan")), "tail_bound"),
    "another space": (configured(space="../../etc"), "BIDS label"),
    "other weights": (put(WEIGHTS, b"x", vouched=False), "SHA-256 differs"),
    "other mean": (put(MEAN, b"x", vouched=False), "SHA-256 differs"),
    "other constants": (put(CONSTANTS, b"x", vouched=False), "SHA-256 differs"),
    "weights are a pickle": (put(WEIGHTS, trap), "cannot be read as safetensors"),
    "weights are a torch file": (put(WEIGHTS, torch_trap), "cannot be read as safetensors"),
    "constants are a pickle": (put(CONSTANTS, trap), "cannot be read as safetensors"),
    "mean is a pickle": (put(MEAN, trap), "cannot be read"),
    "mean is a packed pickle": (put(MEAN, lambda f: gzip.compress(trap(f))), "cannot be read"),
    "weights with a huge header": (
        put(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), "cannot be read as safetensors",
    ),
    "weights that claim more than there is": (
        put(WEIGHTS, header(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}')),
        "cannot be read as safetensors",
    ),
    "weights that lack one": (arrays(WEIGHTS, lambda a: a.pop(sorted(a)[0])), "not those of its"),
    "weights of another shape": (arrays(WEIGHTS, first(lambda a: a[..., :1])), "shape"),
    "weights that are no numbers": (arrays(WEIGHTS, first(lambda a: a * np.nan)), "NaN"),
    "constants of no numbers": (arrays(CONSTANTS, first(lambda a: a * np.nan)), ""),
    "mean is truncated": (put(MEAN, lambda f: (f / MEAN).read_bytes()[:99]), "cannot be read"),
    "mean is no number": (put(MEAN, nan_mean), "NaN"),
    "mean that claims to be huge": (put(MEAN, claims((30000, 30000, 30000))), "shape"),
    "intensities are a list": (described(Intensity=[]), "JSON object"),
}  # fmt: skip


@pytest.fixture
def folder(small_model, tmp_path):
    return shutil.copytree(small_model, tmp_path / "model")


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_or_hostile_model_is_refused_and_runs_nothing(case, folder):
    change, said = BAD[case]
    change(folder)
    with pytest.raises(ModelError) as refusal:
        load_model(folder)
    sentence = str(refusal.value)
    assert said in sentence
    assert not (folder / "executed").exists()


def test_of_a_mean_no_more_is_unpacked_than_it_can_have(folder):
    put(MEAN, bomb)(folder)
    tracemalloc.start()
    load_model(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_constants_of_another_version_do_for_the_other_method_alone(
    folder, small_dataset, tmp_path, run_here
):
    arrays(CONSTANTS, lambda found: found.pop(sorted(found)[0]))(folder)
    code, _, err = run_here(small_dataset, tmp_path, folder, "--dry-run")
    assert code == 1 and "lacks the constants of the method" in err
    code, _, err = run_here(small_dataset, tmp_path, folder, "--dry-run", "--method", "paper")
    assert code == 0, err


@pytest.mark.parametrize("case", ["weights are a pickle", "description nested without end"])
def test_the_command_says_so_and_ends_with_one(case, folder, small_dataset, tmp_path, run_here):
    BAD[case][0](folder)
    code, out, err = run_here(small_dataset, tmp_path, folder, "--dry-run")
    assert code == 1
    assert err.count("bh-bids: error: ") == 1 and BAD[case][1] in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("fields", [
    {"Intensity": {}}, {"Intensity": {"TargetScale": float("inf")}},
    {"Intensity": {"TargetScale": -1, "Modes": {}}}, {"Intensity": {"TargetScale": "1"}},
])  # fmt: skip
def test_a_model_without_a_usable_scale_harmonizes_nothing(fields, folder, small_brain):
    from bh_bids import harmonize

    described(**fields)(folder)
    model = load_model(folder)
    mask = model.mean > 0.05
    with pytest.raises(ModelError, match="TargetScale"):
        harmonize(model.mean, mask, model, device="cpu")


def test_a_checkpoint_with_code_is_refused_and_runs_nothing(tmp_path, capsys):
    trap = tmp_path / "executed"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Payload(trap)}, tmp_path / "evil.pt")
    code = bh_model(["import", str(tmp_path / "evil.pt"), "--output", str(tmp_path / "model")])
    assert code == 1
    assert "running code" in capsys.readouterr().err
    assert not trap.exists() and not (tmp_path / "model").exists()
