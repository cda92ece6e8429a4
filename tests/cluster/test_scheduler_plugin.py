"""nipype's SLURM plugin on a real Slurm, with the plugin file of docs/slurm."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "docs" / "slurm" / "plugin.yml"


def requested(slurm):
    """What each finished job was given: name to its resources."""
    found = {}
    for line in (slurm.root / "completed").read_text().splitlines():
        fields = dict(re.findall(r"(\S+?)=(\S*)", line))
        found[fields["Name"]] = fields["Tres"]
    return found


def test_a_participant_whose_steps_are_jobs(slurm, study, small_model, tmp_path):
    command = [sys.executable, "-m", "bh_bids.cli.run", str(study), str(tmp_path / "out")]
    command += ["participant", "--participant-label", "01", "-w", str(tmp_path / "work")]
    command += ["--model", str(small_model), "--device", "cpu", "--omp-nthreads", "2"]
    done = subprocess.run([*command, "--use-plugin", str(PLUGIN)], capture_output=True, text=True,
                          env=slurm.environment, cwd=tmp_path)  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert list(tmp_path.glob("out/sub-01/anat/*_desc-harmonization_metrics.tsv"))
    jobs = requested(slurm)
    steps = {name.split(".")[0]: tres for name, tres in jobs.items() if ".sub_01_scan_wf" in name}
    print(json.dumps(steps, indent=1))
    wanted = {"conform", "brain_mask", "bias_field", "register", "resample", "harmonize"}
    assert wanted <= steps.keys()
    # Steps that only move data need no job.
    assert not [name for name in steps if name.startswith(("ds_", "sidecar_"))]
    assert "cpu=2," in steps["harmonize"] and "cpu=1," in steps["register"]
    memory = {re.search(r"mem=([\d.]+[MG])", tres)[1] for tres in steps.values()}
    assert len(memory) > 2, "each step asks for what it needs"


GPU_STEPS = """
import json, os, sys
import nipype.pipeline.engine as pe
from nipype import config
from nipype.interfaces.utility import Function
from bh_bids.scheduler import request_resources

def look(use_gpu):
    import os
    names = ("SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_MEM_PER_NODE", "SLURM_CPUS_PER_TASK")
    return {name: os.environ.get(name) for name in names}

flow = pe.Workflow("flow", base_dir=sys.argv[1])
nodes = {}
for name, gpu in (("with_gpu", True), ("without", False)):
    node = pe.Node(Function(function=look, output_names=["seen"]), name=name, mem_gb=0.8, n_procs=2)
    node.inputs.use_gpu = gpu
    flow.add_nodes([node])
arguments = request_resources(flow._get_all_nodes(), "SLURM", {"sbatch_args": "--time=5"})
graph = flow.run(plugin="SLURM", plugin_args=arguments)
print("SEEN", json.dumps({node.name: node.result.outputs.seen for node in graph.nodes()}))
"""


def test_a_step_s_gpu_and_memory_reach_the_scheduler(slurm, tmp_path):
    """No GPU is here: Slurm counts and hands out what it believes to be one."""
    environment = {**slurm.environment, "NIPYPE_NO_ET": "1", "LOGNAME": "somebody"}
    script = tmp_path / "steps.py"
    script.write_text(GPU_STEPS)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], text=True,
                          capture_output=True, env=environment, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("SEEN"))
    print(line)
    seen = json.loads(line.removeprefix("SEEN "))
    assert seen["with_gpu"]["SLURM_JOB_GPUS"] is not None
    assert seen["without"]["SLURM_JOB_GPUS"] is None
    for step in seen.values():
        assert step["SLURM_MEM_PER_NODE"] == "1332" and step["SLURM_CPUS_PER_TASK"] == "2"
    asked = slurm.show(seen["with_gpu"]["SLURM_JOB_ID"])
    assert asked["TresPerJob"] == "gres:gpu:1", asked
