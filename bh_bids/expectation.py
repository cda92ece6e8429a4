"""How long a run may take and how much memory it may need, before it begins."""

import math

from .limits import available_gb

STEP_SECONDS = {
    "conform": 2,
    "brain_mask": 90,
    "bias_field": 20,
    "register": 20,
    "resample": 5,
    "within_template": 90,
    "from_template": 3,
    "checks": 5,
    "require_checks": 1,
    "native_mask": 1,
    "harmonize": 60,
    "native_grid": 10,
    "metrics": 2,
    "plot_brain": 3,
    "plot_registration": 3,
    "plot_harmonization": 10,
}
"""Seconds of each step of a 1 mm scan with its skull, method map with the packaged model, on one
thread of a server's processor that had other work at the same time."""

_PAPER_FACTOR = 10
_OVERHEAD_SECONDS = 20
_BASE_GB = 0.6


def expect(settings, workflow, model):
    """Time, memory and disk that a run may take.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    workflow : nipype.pipeline.engine.Workflow
        The whole run's.
    model : dict
        Description of the target-domain model.

    Returns
    -------
    dict
        ``seconds``; ``memory_gb``, the most that all processes may need at once; ``work_gb`` and
        ``output_gb`` on disk; ``at_once``, the scans that are worked on together.

    Notes
    -----
    From figures of one computer: right within a factor of two, not better.
    """
    nodes = workflow._get_all_nodes()
    scans = sum(node.name == "conform" for node in nodes)
    serial = settings.low_mem or settings.nprocs == 1
    limit = settings.mem_gb or 0.9 * available_gb()
    needs = sorted((float(node.mem_gb) for node in nodes), reverse=True)
    largest = needs[0] if needs else 0.0
    at_once = 1 if serial else min(settings.nprocs, max(1, int(limit // max(largest, 0.1))))
    at_once = max(1, min(at_once, scans))
    longest = {name: _step_seconds(name, settings, model) for name in {n.name for n in nodes}}
    work = sum(longest[node.name] for node in nodes)
    alone = work / max(scans, 1)
    rounds = math.ceil(scans / at_once)
    memory = _BASE_GB + (largest if serial else min(sum(needs[:at_once]), limit))
    return {
        "scans": scans,
        "at_once": at_once,
        "seconds": _OVERHEAD_SECONDS + rounds * alone,
        "memory_gb": memory,
        "work_gb": 0.2 * scans,
        "output_gb": 0.04 * scans,
    }


def _step_seconds(name, settings, model):
    seconds = STEP_SECONDS.get(name, 0.3)
    if name == "brain_mask" and settings.skull_strip_t1w == "skip":
        return 2
    if name == "harmonize":
        seconds *= _flow_factor(settings, model)
    return seconds


def _flow_factor(settings, model):
    """The flow's cost over the packaged model's, as far as its size tells."""
    from .flow.config import FlowConfig

    config, default = FlowConfig.from_dict(model["Config"]), FlowConfig()

    def cost(c):
        return c.steps * c.blocks * c.hidden_channels**2

    factor = max(0.3, cost(config) / cost(default)) / max(1, settings.omp_nthreads or 1) ** 0.7
    return factor * (_PAPER_FACTOR if settings.method == "paper" else 1)
