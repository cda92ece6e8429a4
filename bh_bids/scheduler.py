"""What each step asks of a cluster's scheduler, through nipype's plugins for schedulers."""

import math

from .errors import InputError

MARGIN = 1.25
"""Memory to ask for, as a factor on what a step takes: a scheduler kills what goes beyond."""
LIBRARIES_GB = 0.3
"""Of a process that starts from nothing, beside what a step takes in one that shares them."""
_ARGUMENTS = {"SLURM": "sbatch_args", "SGE": "qsub_args", "PBS": "qsub_args", "LSF": "bsub_args"}
_SLURM = {"node_args": "--mem={mem_mb}M --cpus-per-task={n_procs}", "gpu_args": "--gpus=1"}


def request_resources(nodes, plugin, arguments):
    """Give each step its own arguments for the scheduler; sinks run where nipype runs.

    ``node_args`` and ``gpu_args`` of the plugin's arguments say how a site's scheduler is asked for
    resources; ``{mem_mb}``, ``{mem_gb}`` and ``{n_procs}`` stand for what a step needs. Slurm has
    defaults, of which those options are left out that ``sbatch_args`` has already.

    Parameters
    ----------
    nodes : iterable of nipype.pipeline.engine.Node
    plugin : str
        nipype's name.
    arguments : dict
        The plugin's arguments.

    Returns
    -------
    dict
        The arguments without ``node_args`` and ``gpu_args``, which nipype does not know.

    Raises
    ------
    InputError
        If a template names something else.
    """
    arguments = dict(arguments)
    keyword = _ARGUMENTS.get(plugin)
    templates = dict(_SLURM) if plugin == "SLURM" else {"node_args": "", "gpu_args": ""}
    if plugin == "SLURM":
        taken = {word.split("=")[0] for word in str(arguments.get(keyword) or "").split()}
        templates = {name: _without(text, taken) for name, text in templates.items()}
    given = {name: arguments.pop(name) for name in templates if name in arguments}
    templates.update({name: str(text or "") for name, text in given.items()})
    if keyword is None:
        return arguments
    for text in templates.values():
        _filled(text, 1024, 1)
    for node in nodes:
        node.run_without_submitting = node.name.startswith(("ds_", "sidecar_"))
        wanted = [templates["node_args"], templates["gpu_args"] if node.is_gpu_node() else ""]
        words = " ".join(text for text in wanted if text)
        megabytes = math.ceil((MARGIN * node.mem_gb + LIBRARIES_GB) * 1024)
        if words:
            node.plugin_args = {keyword: _filled(words, megabytes, node.n_procs)}
    return arguments


def _filled(text, megabytes, n_procs):
    """A template with what a step needs."""
    try:
        return text.format(mem_mb=megabytes, mem_gb=math.ceil(megabytes / 1024), n_procs=n_procs)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise InputError(
            f"The plugin file's node_args or gpu_args cannot be used ({error}): they may hold "
            "{mem_mb}, {mem_gb} and {n_procs}."
        ) from None


_SHORT = {"--cpus-per-task": "-c", "--gpus": "-G", "--mem": "--mem-per-cpu"}


def _without(text, taken):
    """A template without the options that are given already, or the same in another form."""
    words = [(word, word.split("=")[0]) for word in text.split()]
    return " ".join(w for w, name in words if not taken & {name, _SHORT.get(name)})
