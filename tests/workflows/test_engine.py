"""How a workflow is run: which plugin, and what is told on the way."""

import csv
from types import SimpleNamespace

import pytest

from bh_bids.engine import choose_plugin, write_usage
from bh_bids.errors import InputError
from bh_bids.monitor import Usage
from bh_bids.settings import Settings


@pytest.fixture
def settings(tmp_path):
    def make(**more):
        return Settings(tmp_path / "a", tmp_path / "b", **{"nprocs": 4, **more})

    return make


@pytest.mark.parametrize(("more", "fresh"), [(dict(nprocs=1), False), (dict(low_mem=True), True)])
def test_one_step_at_a_time_still_has_a_process_of_its_own(settings, more, fresh):
    """So that where memory runs out the step is killed, and somebody is left to say so."""
    plugin, _ = choose_plugin(settings(**more), None)
    assert plugin.processors == 1
    assert plugin.plugin_args["fresh_workers"] is fresh


@pytest.mark.parametrize(("device", "slots"), [("cpu", 0), ("cuda", 1), ("cuda:1", 1)])
def test_one_step_at_a_time_has_the_gpu(settings, device, slots):
    assert choose_plugin(settings(device=device), None)[0].n_gpu_procs == slots


def test_the_pool_gets_the_resources_that_were_given(settings):
    plugin, _ = choose_plugin(settings(mem_gb=3.5), "told")
    arguments = plugin.plugin_args
    assert type(plugin).__mro__[1].__name__ == "MultiProcPlugin"
    assert (plugin.processors, plugin.memory_gb) == (4, 3.5)
    assert arguments["status_callback"] == "told"
    # A forked torch hangs; see the notes on the stack.
    assert plugin.pool._mp_context.get_start_method() == "forkserver"
    plugin.pool.shutdown()


def test_without_a_limit_the_pool_stays_under_what_the_computer_has(settings):
    import psutil

    plugin, _ = choose_plugin(settings(), None)
    plugin.pool.shutdown()
    total = psutil.virtual_memory().total / 1024**3
    assert 0.5 * total < plugin.memory_gb < total


def test_a_cluster_s_plugin_comes_from_its_file(settings, tmp_path):
    path = tmp_path / "slurm.yml"
    path.write_text("plugin: SLURM\nplugin_args: {sbatch_args: --mem=4G, dont_resubmit: true}\n")
    plugin, arguments = choose_plugin(settings(use_plugin=path), "told")
    assert plugin == "SLURM"
    assert arguments == {
        "status_callback": "told",
        "sbatch_args": "--mem=4G",
        "dont_resubmit": True,
    }


@pytest.mark.parametrize(
    "content", ["", "- a", "plugin_args: {}", "plugin: [", "plugin: SLURM\nplugin_args: 3",
                "plugin: NoSuchScheduler", None]
)  # fmt: skip
def test_unusable_plugin_files_are_refused(settings, tmp_path, content):
    path = tmp_path / "plugin.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"plugin\.yml"):
        choose_plugin(settings(use_plugin=path), None)


def test_usage_of_all_scans_together_goes_to_their_participant(tmp_path, capsys):
    names = {"sub_01_ses_A_scan_wf": "sub-01_ses-A", "sub_02_scan_wf": "sub-02"}
    steps = {
        "bh_bids_wf.sub_01_wf.longitudinal_wf.within_template": 2.0,
        "bh_bids_wf.sub_01_wf.sub_01_ses_A_scan_wf.anatomical_wf.conform": 0.2,
        "bh_bids_wf.sub_02_wf.sub_02_scan_wf.anatomical_wf.conform": 0.3,
    }
    usage = [
        Usage(step, k, 1.0, 1.0, peak, 1, 1.0, 1) for k, (step, peak) in enumerate(steps.items())
    ]
    settings = SimpleNamespace(output_dir=tmp_path, run_uuid="a")
    for label in ("sub-01", "sub-02"):
        (tmp_path / label / "log" / "a").mkdir(parents=True)
    write_usage(usage, settings, names)
    with open(tmp_path / "sub-01/log/a/resources.tsv", encoding="utf-8", newline="") as stream:
        rows = [(row["scan"], row["step"]) for row in csv.DictReader(stream, delimiter="\t")]
    assert rows == [("sub-01", "within_template"), ("sub-01_ses-A", "conform")]
    assert "sub-01: at most 2.0 GB (within_template)" in capsys.readouterr().out
