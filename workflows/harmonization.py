"""The harmonization of one preprocessed scan, or of several with one intensity map."""

from bh_bids.visits import of_one_contrast

# What --sloppy leaves of each method: no pass of all slices through the flow, or few.
SLOPPY = {"map": {"flow": "gaussian"}, "paper": {"iterations": 2}}


def init_harmonization_wf(*, scan, settings, model, shared=False, name="harmonization_wf"):
    """Harmonize a brain on the model's grid, carry it to the native grid, and measure it.

    Workflow Graph
        harmonize → native grid; harmonize → metrics

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    shared : bool
        The scan shares its intensity map with others: a step outside of this workflow harmonizes
        them all (:func:`harmonize_node`).
    name : str

    Inputs
    ------
    preproc, preproc_mask
        Brain and its mask on the model's grid.
    harmonized, result
        Of the step outside, only with ``shared``.
    lesion
        Lesion mask on the model's grid, if there is one.
    corrected, mask
        Bias-corrected scan and brain mask on the scan's grid.
    to_space
        Composite transform from the scan to the model's space.
    details
        JSON of the brain extraction.

    Outputs
    -------
    harmonized
        On the model's grid.
    native
        On the scan's grid.
    result
        JSON of what the method found.
    metrics, trace
        Tables.
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface

    from bh_bids.interfaces import harmonization as interfaces
    from bh_bids.memory import step_gb

    names = ["preproc", "preproc_mask", "lesion", "corrected", "mask", "to_space", "details"]
    inputs = pe.Node(
        IdentityInterface([*names, *(["harmonized", "result"] if shared else [])]),
        name="inputnode",
    )
    native = pe.Node(
        interfaces.ApplyOnNativeGrid(reference=str(scan.path)),
        name="native_grid",
        mem_gb=step_gb("native_grid", scan),
    )
    summarize = pe.Node(
        interfaces.Summarize(model=model, scan=scan_columns(scan)),
        name="metrics",
        mem_gb=step_gb("metrics", scan),
    )
    outputs = pe.Node(
        IdentityInterface(["harmonized", "native", "result", "metrics", "trace"]),
        name="outputnode",
    )
    workflow = pe.Workflow(name=name)
    if shared:
        found, harmonized = inputs, "harmonized"
    else:
        found, harmonized = harmonize_node(interfaces.Harmonize, settings, model), "out_file"
        workflow.connect([
            (inputs, found, [
                ("preproc", "in_file"), ("preproc_mask", "mask"), ("lesion", "lesion"),
            ]),
        ])  # fmt: skip
    workflow.connect([
        (inputs, native, [
            ("corrected", "native"), ("mask", "mask"), ("to_space", "transform"),
            ("preproc", "source"),
        ]),
        (found, native, [(harmonized, "harmonized"), ("result", "result")]),
        (inputs, summarize, [
            ("preproc", "source"), ("preproc_mask", "mask"), ("details", "details"),
        ]),
        (found, summarize, [(harmonized, "harmonized"), ("result", "result")]),
        (found, outputs, [(harmonized, "harmonized"), ("result", "result")]),
        (native, outputs, [("out_file", "native")]),
        (summarize, outputs, [("metrics", "metrics"), ("trace", "trace")]),
    ])  # fmt: skip
    return workflow


def harmonize_node(interface, settings, model, scans=1):
    """The step that harmonizes.

    Parameters
    ----------
    interface : type
        Of :mod:`bh_bids.interfaces.harmonization`.
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    scans : int
        How many it holds at once.

    Returns
    -------
    nipype.pipeline.engine.Node
    """
    import nipype.pipeline.engine as pe

    from bh_bids.provenance import model_sha256

    on_gpu = settings.device.startswith("cuda")
    node = pe.Node(
        interface(
            model=settings.model,
            model_sha256=model_sha256(model),
            method=settings.method,
            device=settings.device,
            seed=settings.random_seed,
            num_threads=settings.omp_nthreads or 1,
            use_gpu=on_gpu,
        ),
        name="harmonize",
        # 0.16 were measured for each scan more.
        mem_gb=memory_gb(model, settings.method) + 0.2 * (scans - 1),
        # nipype counts a step's GPU slots in its processes.
        n_procs=1 if on_gpu else settings.omp_nthreads or 1,
    )
    if settings.sloppy:
        node.inputs.parameters = SLOPPY[settings.method]
    return node


def shared_maps(scans, settings):
    """Scans of a participant that get one intensity map: those of one scanner and sequence.

    They are told apart by :func:`bh_bids.visits.of_one_contrast`.

    Parameters
    ----------
    scans : sequence of bh_bids.dataset.Scan
        Of a common template.
    settings : bh_bids.settings.Settings

    Returns
    -------
    list of list of bh_bids.dataset.Scan
        Each of two or more.
    """
    if settings.anat_only or settings.method != "map":
        return []
    return [group for group in of_one_contrast(scans) if len(group) > 1]


def memory_gb(model, method):
    """Memory that a method needs with a model, its libraries included.

    Parameters
    ----------
    model : dict
        The model's description.
    method : str

    Returns
    -------
    float
    """
    from bh_bids.flow.config import FlowConfig

    config = FlowConfig.from_dict(model["Config"])
    if method != "map" or "noise" not in config.conditions:
        return 1.1
    # Denoising keeps what a batch of slices leaves in the flow, for its gradient: 0.5 GB were
    # measured with the sizes that are FlowConfig's defaults.
    default = FlowConfig()
    size = config.steps * config.blocks * config.hidden_channels
    return 0.85 + 0.5 * size / (default.steps * default.blocks * default.hidden_channels)


def scan_columns(scan):
    """The columns of the metrics' table that name a scan.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan

    Returns
    -------
    dict of str
    """
    return {
        "participant_id": f"sub-{scan.participant}",
        "session_id": f"ses-{scan.session}" if scan.session else "n/a",
        "filename": scan.uri.removeprefix("bids:raw:"),
    }
