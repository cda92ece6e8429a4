"""How a workflow is run: which plugin, and what is told on the way."""

import pytest

from bh_bids.engine import choose_plugin
from bh_bids.errors import InputError
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
