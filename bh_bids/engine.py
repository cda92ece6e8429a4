"""Running a nipype workflow: plugin, resources, and progress in plain lines."""

import gc
import logging
import os
import sys
import time
from pathlib import Path

from .errors import InputError

VERBOSITY_VARIABLE = "BH_VERBOSITY"
"""Tells worker processes how much the run should say."""
_QUIET = ("inputnode", "outputnode")
_LONG = ("brain_mask", "harmonize")
"""Steps of a minute or more: their beginning is told too."""


def run_workflow(workflow, settings, names):
    """Run a workflow to its end.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    settings : bh_bids.settings.Settings
    names : dict
        See :class:`Progress`.

    Returns
    -------
    bool
        Whether every node finished.

    Raises
    ------
    InputError
        If the plugin file cannot be used.
    """
    from nipype import config

    config.update_config(
        {
            "monitoring": {
                "enabled": str(settings.resource_monitor).lower(),
                "sample_frequency": "0.5",
                "summary_append": "true",
            },
            "execution": {"check_version": "false", "crashfile_format": "txt"},
        }
    )
    quieten_nipype()
    start_forkserver()
    if settings.write_graph:
        try:
            workflow.write_graph(graph2use="colored", format="svg", simple_form=True)
        except OSError:
            raise InputError("--write-graph needs Graphviz's program dot: install it.") from None
    plugin, arguments = choose_plugin(settings, Progress(names))
    # nipype collects garbage at every look at its queue: what the imports left is no garbage, and
    # going through it again and again took a third of a core.
    gc.freeze()
    try:
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
    return True


def quieten_nipype():
    """Set nipype's log levels by the verbosity of the run.

    Unless asked, nipype says nothing: progress is told by :class:`Progress`, and every crash in one
    sentence at the end, with its traceback in the crash file.
    """
    from nipype import logging as nipype_logging

    verbosity = int(os.environ.get(VERBOSITY_VARIABLE, "0"))
    for name, verbose_from in (("nipype.workflow", 1), ("nipype.interface", 2),
                               ("nipype.utils", 2)):  # fmt: skip
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
    progress : Progress

    Returns
    -------
    plugin : str or nipype.pipeline.plugins.base.PluginBase
        By name, or with its arguments in it.
    arguments : dict

    Raises
    ------
    InputError
    """
    from nipype.pipeline import plugins

    from .workers import SturdyMultiProcPlugin

    if settings.use_plugin:
        import yaml

        try:
            content = yaml.safe_load(Path(settings.use_plugin).read_text(encoding="utf-8"))
            plugin, arguments = content["plugin"], dict(content.get("plugin_args") or {})
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The plugin file {settings.use_plugin} cannot be used ({error}): it must be YAML "
                "with 'plugin' and, if needed, 'plugin_args'."
            ) from None
        if not hasattr(plugins, f"{plugin}Plugin"):
            raise InputError(f"{settings.use_plugin}: nipype has no plugin '{plugin}'.")
    elif settings.low_mem or settings.nprocs == 1:
        plugin, arguments = "Linear", {}
    else:
        plugin, arguments = "MultiProc", {}
    arguments = {"status_callback": progress, **arguments}
    if plugin != "MultiProc":
        return plugin, arguments
    own = {
        "n_procs": settings.nprocs,
        "memory_gb": settings.mem_gb or _memory_gb(),
        "raise_insufficient": False,
        "mp_context": "forkserver",
    }
    return SturdyMultiProcPlugin(plugin_args={**own, **arguments}), {}


def _memory_gb():
    import psutil

    return psutil.virtual_memory().total / 1024**3 * 0.9


class Progress:
    """Tells when a step of a scan ends, and how long it took.

    Lines on standard output: the scan, the step, seconds. Steps that only move data are not told.

    Parameters
    ----------
    names : dict
        Name of a scan's workflow to what the scan is to be called.
    stream : file, optional
        Standard output by default.
    """

    def __init__(self, names, stream=None):
        self.names = names
        self.stream = stream or sys.stdout
        self.width = max((len(name) for name in names.values()), default=0)
        self.started = {}

    def __call__(self, node, status):
        """nipype's status callback.

        Parameters
        ----------
        node : nipype.pipeline.engine.Node
        status : {"start", "end", "exception"}
        """
        parts = node.fullname.split(".")
        step = parts[-1]
        if step in _QUIET or step.startswith(("ds_", "sidecar_")):
            return
        scan = next((self.names[part] for part in parts if part in self.names), parts[0])
        if status == "start":
            self.started[node.fullname] = time.monotonic()
            if step in _LONG:
                self._tell(scan, step, "begins")
            return
        # nipype reports the end of steps, too, that it left out because one before them failed.
        if node.fullname not in self.started:
            return
        seconds = time.monotonic() - self.started.pop(node.fullname)
        end = "FAILED" if status == "exception" else "done"
        self._tell(scan, step, f"{end:<6} {seconds:6.1f} s")

    def _tell(self, scan, step, what):
        line = f"{scan:<{self.width}}  {step.replace('_', ' '):<18} {what}"
        print(line, file=self.stream, flush=True)
