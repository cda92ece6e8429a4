"""Running a nipype workflow: plugin, resources, and progress in plain lines."""

import gc
import logging
import os
import shutil
from datetime import datetime
from pathlib import Path

from .errors import InputError
from .limits import available_gb
from .progress import Progress, named, workflow_of
from .scheduler import request_resources

VERBOSITY_VARIABLE = "BH_VERBOSITY"
"""Tells worker processes how much the run should say."""


def run_workflow(workflow, settings, names):
    """Run a workflow to its end.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    settings : bh_bids.settings.Settings
    names : dict
        See :class:`bh_bids.progress.Progress`.

    Returns
    -------
    bool
        Whether every node finished.

    Raises
    ------
    InputError
        Of :func:`check_engine`.
    """
    from nipype import config

    config.update_config({"execution": {"check_version": "false", "crashfile_format": "txt"}})
    quieten_nipype()
    start_forkserver()
    if settings.write_graph:
        workflow.write_graph(graph2use="colored", format="svg", simple_form=True)
    steps = {name: _steps(workflow, name) for name in names}
    serial = settings.low_mem or settings.nprocs == 1
    progress = Progress(
        names, steps, verbose=settings.verbose, parallel=1 if serial else settings.nprocs
    )
    plugin, arguments = choose_plugin(settings, progress)
    if settings.use_plugin and isinstance(plugin, str):
        os.environ.setdefault("LOGNAME", str(os.getuid()))  # nipype names jobs after the user
        arguments = request_resources(workflow._get_all_nodes(), plugin, arguments)
    # nipype collects garbage at every look at its queue: what the imports left is no garbage, and
    # going through it again and again took a third of a core.
    gc.freeze()
    try:
        with progress:
            workflow.run(plugin=plugin, plugin_args=arguments)
    except RuntimeError:
        return False
    except Exception:
        # A step that fails outside its interface, on a full disk for one, raises whatever it met;
        # what left no crash file is a defect.
        crashes = Path(settings.output_dir).glob(f"sub-*/log/{settings.run_uuid}/crash*")
        if not any(crashes):
            raise
        return False
    except BaseException:  # the run was interrupted or is to end: no step may go on without it
        if hasattr(plugin, "kill_workers"):
            plugin.kill_workers()
        raise
    finally:
        if settings.resource_monitor:
            write_usage(getattr(plugin, "usage", []), settings, names)
    return True


def check_engine(settings):
    """Refuse what no run can be started with, before anything is written or removed.

    Parameters
    ----------
    settings : bh_bids.settings.Settings

    Raises
    ------
    InputError
        If the plugin file cannot be used, or the graph cannot be drawn.
    """
    if settings.write_graph and shutil.which("dot") is None:
        raise InputError("--write-graph needs Graphviz's program dot: install it.")
    if settings.use_plugin:
        request_resources([], *_read_plugin(settings.use_plugin))


def _steps(workflow, name):
    """Names of the steps of one scan's workflow."""
    paths = [path.split(".") for path in workflow.list_node_names()]
    return {path[-1] for path in paths if name in path}


def quieten_nipype():
    """Set nipype's log levels by the verbosity of the run.

    Unless asked, nipype says nothing: progress is told by :mod:`bh_bids.progress`, and every crash
    in one sentence at the end, with its traceback in the crash file.
    """
    from nipype import logging as nipype_logging

    verbosity = int(os.environ.get(VERBOSITY_VARIABLE, "0"))
    for name, verbose_from in (("nipype.workflow", 2), ("nipype.interface", 3),
                               ("nipype.utils", 3)):  # fmt: skip
        level = logging.INFO if verbosity >= verbose_from else logging.CRITICAL
        nipype_logging.getLogger(name).setLevel(level)


def start_forkserver():
    """Let worker processes come from a server that has imported nipype, but not torch.

    A worker forked from a process that ran torch hangs; one that starts from nothing imports for
    many seconds.
    """
    import multiprocessing

    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload(["bh_bids.engine_worker"])


def choose_plugin(settings, progress):
    """nipype plugin and its arguments.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    progress : bh_bids.progress.Progress

    Returns
    -------
    plugin : str or nipype.pipeline.plugins.base.PluginBase
        By name, or with its arguments in it.
    arguments : dict

    Raises
    ------
    InputError
    """
    from .workers import SturdyMultiProcPlugin

    plugin, arguments = "MultiProc", {}
    if settings.use_plugin:
        plugin, arguments = _read_plugin(settings.use_plugin)
    arguments = {"status_callback": progress, **arguments}
    if plugin != "MultiProc":
        return plugin, arguments
    own = {
        "n_procs": 1 if settings.low_mem else settings.nprocs,
        # One device was named: as many steps use it at once.
        "n_gpu_procs": 1 if settings.device.startswith("cuda") else 0,
        "memory_gb": settings.mem_gb or 0.9 * available_gb(),
        "raise_insufficient": False,
        "mp_context": "forkserver",
        "fresh_workers": settings.low_mem,
    }
    return SturdyMultiProcPlugin(plugin_args={**own, **arguments}), {}


def _read_plugin(path):
    """nipype's name of a plugin, and its arguments, of a plugin file."""
    import yaml
    from nipype.pipeline import plugins

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        plugin, arguments = content["plugin"], dict(content.get("plugin_args") or {})
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The plugin file {path} cannot be used ({error}): it must be YAML with 'plugin' and, "
            "if needed, 'plugin_args'."
        ) from None
    if not hasattr(plugins, f"{plugin}Plugin"):
        raise InputError(f"{path}: nipype has no plugin '{plugin}'.")
    return plugin, arguments


def write_usage(usage, settings, names):
    """Write what each step took, a table for each participant, and tell the largest.

    Parameters
    ----------
    usage : list of bh_bids.monitor.Usage
        Empty where a scheduler ran the steps: its accounting has what they took.
    settings : bh_bids.settings.Settings
    names : dict
        See :class:`bh_bids.progress.Progress`.
    """
    from .evaluation.participant import write_tsv

    rows = {}
    for taken in sorted(usage, key=lambda item: item.start):
        scan = named(workflow_of(taken.step, names), names)
        row = {
            "scan": scan,
            "step": taken.step.rsplit(".", 1)[-1],
            "start": f"{datetime.fromtimestamp(taken.start):%Y-%m-%dT%H:%M:%S}",
            "seconds": round(taken.seconds, 2),
            "cpu_seconds": round(taken.cpu_seconds, 2),
            "threads": taken.threads,
            "n_procs": taken.n_procs,
            "peak_gb": round(taken.peak_gb, 3),
            "mem_gb": round(taken.mem_gb, 3),
        }
        rows.setdefault(scan.split("_")[0], []).append(row)
    for participant, own in rows.items():
        log = Path(settings.output_dir) / participant / "log" / settings.run_uuid
        path = write_tsv(own, log / "resources.tsv")
        largest = max(own, key=lambda row: row["peak_gb"])
        print(f"{participant}: at most {largest['peak_gb']:.1f} GB ({largest['step']}), "
              f"{sum(row['cpu_seconds'] for row in own) / 60:.1f} CPU minutes: {path}")  # fmt: skip
