"""docs/slurm/train.sbatch on two nodes of a real Slurm."""

import json
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "slurm" / "train.sbatch"
SMALL = ("--device cpu --levels 2 --steps-per-level 1 --hidden-channels 4 --blocks 1 --bins 4 "
         "--steps 4 --batch-size 4 --crop 32 32 --workers 0").split()  # fmt: skip


def test_two_nodes_train_one_model(slurm, places, target, tmp_path):
    variables = {**places, "BH_DERIVATIVES": str(target), "BH_MODELS": str(tmp_path / "models")}
    job = slurm.call(
        "sbatch", "--parsable", "--cpus-per-task=1", "--mem=4G", str(SCRIPT), "small", *SMALL,
        **variables,
    )  # fmt: skip
    slurm.wait_for(job, seconds=3600)
    log = (slurm.root / f"bh-model_{job}.log").read_text()
    print(log)
    told = slurm.show(job)
    print({name: told[name] for name in ("JobState", "NumNodes", "NodeList", "TRES")})
    assert told["JobState"] == "COMPLETED" and told["NumNodes"] == "2"
    card = json.loads((tmp_path / "models" / "small" / "model.json").read_text())
    assert card["Name"] == "small"
