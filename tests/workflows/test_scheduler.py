"""What a step asks of a scheduler: text that its program gets."""

from types import SimpleNamespace

import pytest

from bh_bids.errors import InputError
from bh_bids.scheduler import request_resources


class Step(SimpleNamespace):
    def is_gpu_node(self):
        return self.gpu


def steps():
    return [
        Step(name="harmonize", mem_gb=2.0, n_procs=3, gpu=True),
        Step(name="register", mem_gb=0.8, n_procs=1, gpu=False),
        Step(name="ds_mask", mem_gb=0.4, n_procs=1, gpu=False),
    ]


def asked(plugin, **arguments):
    own = steps()
    rest = request_resources(own, plugin, arguments)
    return [step.plugin_args for step in own], own, rest


def test_slurm_is_asked_for_memory_with_a_margin_threads_and_gpus():
    given, own, rest = asked("SLURM", sbatch_args="--time=5", max_jobs=3)
    assert given[0] == {"sbatch_args": "--mem=2868M --cpus-per-task=3 --gpus=1"}
    assert given[1] == {"sbatch_args": "--mem=1332M --cpus-per-task=1"}
    assert rest == {"sbatch_args": "--time=5", "max_jobs": 3}
    assert [step.run_without_submitting for step in own] == [False, False, True]


@pytest.mark.parametrize(
    ("mine", "left"),
    [
        ("--mem=9G", "--cpus-per-task=1"),
        ("--mem-per-cpu=2G", "--cpus-per-task=1"),
        ("-c 4", "--mem=1332M"),
        ("--memory-of-another-kind=1", "--mem=1332M --cpus-per-task=1"),
    ],
)
def test_what_sbatch_args_say_of_all_steps_stands(mine, left):
    given, _, _ = asked("SLURM", sbatch_args=mine)
    assert given[1] == {"sbatch_args": left}


def test_other_schedulers_are_asked_in_their_site_s_words():
    words = {"node_args": "-l mem_free={mem_mb}M,all={mem_gb}G -pe smp {n_procs}",
             "gpu_args": "-l gpu=1"}  # fmt: skip
    given, _, rest = asked("SGE", **words)
    assert given[0] == {"qsub_args": "-l mem_free=2868M,all=3G -pe smp 3 -l gpu=1"}
    assert given[1] == {"qsub_args": "-l mem_free=1332M,all=2G -pe smp 1"}
    assert rest == {}


def test_a_plugin_that_is_no_scheduler_is_left_alone():
    own = steps()
    assert request_resources(own, "Linear", {"a": 1}) == {"a": 1}
    assert not hasattr(own[0], "plugin_args")


@pytest.mark.parametrize("text", ["--mem={memory}", "{", "{0}"])
def test_unusable_templates_are_refused(text):
    with pytest.raises(InputError, match="mem_mb"):
        asked("SLURM", node_args=text)


@pytest.mark.parametrize("path", ["docs/slurm/plugin.yml", "docs/clusters/sge.yml",
                                  "docs/clusters/pbs.yml"])  # fmt: skip
def test_the_documented_plugin_files_ask_for_what_a_step_needs(path):
    from pathlib import Path

    import yaml

    content = yaml.safe_load((Path(__file__).resolve().parents[2] / path).read_text())
    given, _, rest = asked(content["plugin"], **content["plugin_args"])
    ((_, text),) = given[0].items()
    assert "2868" in text and "3" in text and "gpu" in text and "{" not in text
    assert rest["max_jobs"] == 100
