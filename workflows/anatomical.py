"""The anatomical fit of one T1w scan."""

_OUTPUTS = ("t1w", "corrected", "mask", "details", "to_space", "from_space", "preproc",
            "preproc_mask", "lesion")  # fmt: skip


def init_anatomical_wf(*, scan, settings, model, within=(), name="anatomical_wf"):
    """Check a T1w scan, mask its brain, correct its bias field, register and resample it.

    Workflow Graph
        conform → brain mask → N4 → rigid and affine registration → model's grid → checks

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model; its grid is the result's.
    within : sequence of bh_bids.dataset.Scan
        The scans whose template gives this one's brain mask and registration; none: its own.
    name : str

    Inputs
    ------
    mask, details, to_space, to_template
        Of :func:`bh_bids.workflows.longitudinal.init_longitudinal_wf`, only with ``within``;
        without, the scan's file is set when the workflow is built.

    Outputs
    -------
    t1w
        Checked scan on RAS axes.
    corrected
        The same, bias-corrected.
    mask
        Brain mask on the same grid.
    details
        JSON of the brain extraction and of the checks.
    to_space, from_space
        Composite transforms between the scan and the model's space.
    preproc, preproc_mask
        Bias-corrected brain and its mask on the model's grid.
    lesion
        Lesion mask on the model's grid; not there without one.
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface

    from bh_bids.derivatives import find_lesion, lesions_left_out
    from bh_bids.flow.config import FlowConfig
    from bh_bids.interfaces import anatomical as anat
    from bh_bids.memory import step_gb
    from bh_bids.visits import kept_apart

    config = FlowConfig.from_dict(model["Config"])

    def step(interface, name):
        return pe.Node(interface, name=name, mem_gb=step_gb(name, scan))

    notes = [*scan.problems, *lesions_left_out(scan, settings.lesion_roi)]
    if within and settings.method == "map" and not settings.anat_only:
        notes += kept_apart(scan, within)
    conform = step(anat.ConformT1w(in_file=str(scan.path), notes=notes), "conform")
    correct = step(anat.CorrectBias(sloppy=settings.sloppy), "bias_field")
    resample = step(
        anat.ResampleToModel(shape=list(config.shape), affine=config.affine.tolist()), "resample"
    )
    lesion = find_lesion(scan, settings.lesion_roi)
    if lesion:
        correct.inputs.lesion = resample.inputs.lesion = str(lesion)
    checks = step(anat.CheckAnatomy(space=config.space), "checks")
    outputs = pe.Node(IdentityInterface(list(_OUTPUTS)), name="outputnode")
    workflow = pe.Workflow(name=name)
    fit = _from_template if within else _own_fit
    brain, register = fit(workflow, step, scan, settings, within, conform, correct)
    if not within:
        register.inputs.space = config.space
    workflow.connect([
        (conform, correct, [("out_file", "in_file")]),
        (brain, correct, [("out_mask", "mask")]),
        (correct, resample, [("out_file", "in_file")]),
        (brain, resample, [("out_mask", "mask")]),
        (register, resample, [("to_space", "transform")]),
        (brain, checks, [("out_mask", "mask"), ("details", "details")]),
        (register, checks, [("to_space", "transform")]),
        (resample, checks, [("out_file", "preproc"), ("out_mask", "preproc_mask")]),
        (conform, outputs, [("out_file", "t1w")]),
        (correct, outputs, [("out_file", "corrected")]),
        (brain, outputs, [("out_mask", "mask")]),
        (checks, outputs, [("details", "details")]),
        (register, outputs, [("to_space", "to_space"), ("from_space", "from_space")]),
        (resample, outputs, [("out_file", "preproc"), ("out_mask", "preproc_mask")]),
    ])  # fmt: skip
    if lesion:
        workflow.connect(resample, "out_lesion", outputs, "lesion")
    return workflow


def _own_fit(workflow, step, scan, settings, within, conform, correct):
    """Nodes that give a scan its own brain mask and its own registration."""
    from bh_bids.derivatives import find_mask
    from bh_bids.interfaces import anatomical as anat

    brain = step(
        anat.ExtractBrain(
            mode=settings.skull_strip_t1w,
            seed=settings.random_seed,
            sloppy=settings.sloppy,
            force=settings.force,
        ),
        "brain_mask",
    )
    if settings.template:
        brain.inputs.template = settings.template
    mask = find_mask(scan, settings.derivatives)
    if mask:
        brain.inputs.mask = str(mask)
    elif settings.derivatives:
        brain.inputs.lacking = ", ".join(settings.derivatives)
    register = step(
        anat.RegisterBrain(seed=settings.random_seed, sloppy=settings.sloppy), "register"
    )
    workflow.connect([
        (conform, brain, [("out_file", "in_file"), ("warnings", "warnings")]),
        (correct, register, [("out_file", "in_file")]),
        (brain, register, [("out_mask", "mask")]),
    ])  # fmt: skip
    return brain, register


def _from_template(workflow, step, scan, settings, within, conform, correct):
    """The node that gives a scan the mask and registration of its participant's template."""
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface, Select

    from bh_bids.interfaces.longitudinal import FromWithinTemplate

    inputs = pe.Node(
        IdentityInterface(["mask", "details", "to_space", "to_template"]), name="inputnode"
    )
    own = pe.Node(Select(index=[within.index(scan)]), name="sidecar_own_transform")
    back = step(FromWithinTemplate(scans=[other.path.name for other in within]), "from_template")
    workflow.connect([
        (inputs, own, [("to_template", "inlist")]),
        (own, back, [("out", "to_template")]),
        (inputs, back, [("mask", "mask"), ("details", "details"), ("to_space", "to_space")]),
        (conform, back, [("out_file", "in_file"), ("warnings", "warnings")]),
    ])  # fmt: skip
    return back, back
