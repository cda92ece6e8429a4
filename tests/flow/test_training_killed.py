"""A training that is killed with SIGKILL, wherever it was, ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from bh_bids.flow.training import TrainingSettings, train_model

SETTINGS = {
    **{"steps": 15, "batch_size": 2, "crop": (16, 16), "warm_up": 2, "interval": 3},
    **{"validation_crops": 1},
}
PROGRAM = """
import json, sys
import torch
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.training import TrainingSettings, train_model
torch.set_num_threads(1)
derivatives, output, config, settings = sys.argv[1:]
settings = json.loads(settings)
settings["crop"] = tuple(settings["crop"])
train_model(
    derivatives, output, FlowConfig.from_dict(json.loads(config)), TrainingSettings(**settings),
    {}, validation=0.3, resume=True,
)
"""


def curve(folder):
    lines = (folder / "training" / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def kill_at(moment, command, folder):
    """Start a training and kill it once so many validations are logged."""
    log = folder / "training" / "log.jsonl"
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        if log.is_file() and log.read_text().count("\n") >= moment:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


@pytest.mark.parametrize("moments", [(2,), pytest.param((1, 2, 3), marks=pytest.mark.slow)])
def test_curve_and_weights_are_those_of_an_uninterrupted_training(
    derivatives, tiny_config, tmp_path, moments
):
    config = replace(tiny_config, conditions=("mask", "previous", "mean", "noise"))
    settings = TrainingSettings(**SETTINGS)
    given = [json.dumps(config.to_dict()), json.dumps(asdict(settings))]
    command = [sys.executable, "-c", PROGRAM, str(derivatives), str(tmp_path / "a"), *given]
    for moment in moments:
        kill_at(moment, command, tmp_path / "a")
        assert not (tmp_path / "a" / "model.json").exists()
    for name in "ab":
        train_model(derivatives, tmp_path / name, config, settings, {}, validation=0.3, resume=True)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
