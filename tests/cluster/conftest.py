"""Slurm on this computer alone: munge, a controller and two nodes, all on the loopback address.

Needs root, and of Debian slurm-wlm, munge and bubblewrap: make test-cluster.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "docs" / "slurm"

CONFIGURATION = """\
ClusterName=bh
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
SlurmUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
ProctrackType=proctrack/{group}
TaskPlugin=task/{task}
JobAcctGatherType=jobacct_gather/{gather}
JobAcctGatherFrequency=2
{enforce}
JobCompType=jobcomp/filetxt
JobCompLoc={root}/completed
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
MinJobAge=86400
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=27001 CPUs=4 RealMemory=16000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=27002 CPUs=4 RealMemory=16000 Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Nobody computes on them: what is tested is that a step gets the one it asks for.
GPUS = "NodeName=n1 Name=gpu File=/dev/null\nNodeName=n2 Name=gpu File=/dev/null\n"
CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
AllowedSwapSpace=0
"""


class Slurm:
    """A cluster of two nodes.

    Memory is held by control groups where the kernel lets them be made, as on most clusters: then
    only the process that goes beyond is killed. Elsewhere Slurm looks every two seconds and kills
    the whole job.
    """

    def __init__(self, root):
        self.root = Path(root)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            "SLURM_CONF": str(self.root / "slurm.conf"),
        }
        self._started = []

    def start(self):
        for folder in ("munge", "state", "n1", "n2"):
            (self.root / folder).mkdir(mode=0o700)
        key = self.root / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        cgroups = os.access("/sys/fs/cgroup/memory", os.W_OK)
        kinds = ("cgroup", "cgroup", "cgroup", "") if cgroups else (
            "linuxproc", "none", "linux", "JobAcctGatherParams=OverMemoryKill")  # fmt: skip
        names = dict(zip(("group", "task", "gather", "enforce"), kinds, strict=True))
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(host=host, root=self.root, **names)
        (self.root / "slurm.conf").write_text(text)
        (self.root / "gres.conf").write_text(GPUS)
        (self.root / "cgroup.conf").write_text(CGROUPS if cgroups else "")
        munge = [f"--{name}={self.root / 'munge' / name}" for name in ("socket", "pid-file",
                 "log-file", "seed-file")]  # fmt: skip
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *munge)
        self._wait(lambda: (self.root / "munge" / "socket").exists())
        self._start("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self.call("sinfo", "-h", "-o", "%T %D", check=False) == "idle 2")
        return self

    def stop(self):
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            process.wait(timeout=60)

    def call(self, *command, check=True, **variables):
        """Standard output of a command, without the last line end."""
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=self.root
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def wait_for(self, *jobs, seconds):
        """Wait until none of the jobs is in the queue."""
        self._wait(
            lambda: not self.call("squeue", "-h", "-j", ",".join(jobs), check=False), seconds
        )

    def show(self, job):
        """What the controller knows of a job, as a dict."""
        text = self.call("scontrol", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def _start(self, *command):
        program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin")
        with open(self.root / "daemons.log", "ab") as log:
            self._started.append(
                subprocess.Popen(
                    [program, *command[1:]], stdout=log, stderr=log, env=self.environment
                )
            )

    def _wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain; see {self.root}"
            time.sleep(1)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The running cluster."""
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def study(tmp_path_factory, dataset_maker, write_t1w, small_brain):
    """Dataset of five small brains; the file of participant 03 is cut in half."""
    root = dataset_maker(tmp_path_factory.mktemp("study") / "bids")
    for k in range(1, 6):
        path = root / f"sub-0{k}" / "anat" / f"sub-0{k}_T1w.nii.gz"
        write_t1w(path, (2 + 0.5 * k) * small_brain.volume, small_brain.affine)
    broken = root / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    return root


@pytest.fixture(scope="module")
def places(study, small_model, tmp_path_factory):
    """What the scripts of docs/slurm read from the environment, and the stand-in for Apptainer."""
    folder = tmp_path_factory.mktemp("places")
    return {
        "PATH": f"{Path(__file__).parent}:{os.environ['PATH']}",
        "BH_STANDIN_BIN": str(Path(sys.executable).parent),
        "APPTAINER_BIND": str(small_model),
        "BH_IMAGE": "/",
        "BH_BIDS": str(study),
        "BH_OUT": str(folder / "out"),
        "BH_WORK": str(folder / "work"),
    }


@pytest.fixture(scope="session")
def target(tmp_path_factory, mni):
    """Derivatives of four target participants on the models' grid: one brain in four noises."""
    from bh_bids.flow.config import FlowConfig

    config = FlowConfig()
    first = np.rint(np.linalg.inv(mni[1]) @ config.affine[:, 3]).astype(int)[:3]
    volume = np.pad(mni[0], 32)[tuple(slice(i + 32, i + 32 + n) for i, n in
                                      zip(first, config.shape, strict=True))]  # fmt: skip
    mask = volume > 0
    root = tmp_path_factory.mktemp("target")
    for k in range(1, 5):
        noisy = volume + np.random.default_rng(k).normal(scale=2, size=volume.shape)
        stem = root / f"sub-0{k}" / "anat" / f"sub-0{k}_space-{config.space}_res-1_desc"
        stem.parent.mkdir(parents=True)
        brain = np.where(mask, np.maximum(noisy, 1), 0).astype(np.float32)
        nib.save(nib.Nifti1Image(brain, config.affine), f"{stem}-preproc_T1w.nii.gz")
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), config.affine), f"{stem}-brain_mask.nii.gz")
    return root
