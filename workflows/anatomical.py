"""The anatomical fit of one T1w scan."""


def init_anatomical_wf(*, scan, settings, model, name="anatomical_wf"):
    """Check a T1w scan, mask its brain, correct its bias field, register and resample it.

    Workflow Graph
        conform → brain mask → N4 → rigid and affine registration → model's grid

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model; its grid is the result's.
    name : str

    Inputs
    ------
    None
        The scan's file is set when the workflow is built.

    Outputs
    -------
    t1w
        Checked scan on RAS axes.
    corrected
        The same, bias-corrected.
    mask
        Brain mask on the same grid.
    details
        JSON of the brain extraction.
    to_space, from_space
        Composite transforms between the scan and the model's space.
    preproc, preproc_mask
        Bias-corrected brain and its mask on the model's grid.
    lesion
        Lesion mask on the model's grid; not there without one.
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface

    from bh_bids.derivatives import find_lesion, find_precomputed
    from bh_bids.flow.config import FlowConfig
    from bh_bids.interfaces import anatomical as anat
    from bh_bids.memory import step_gb

    config = FlowConfig.from_dict(model["Config"])

    def step(interface, name):
        return pe.Node(interface, name=name, mem_gb=step_gb(name, scan))

    conform = step(anat.ConformT1w(in_file=str(scan.path), notes=list(scan.problems)), "conform")
    brain = step(
        anat.ExtractBrain(
            mode=settings.skull_strip_t1w, seed=settings.random_seed, sloppy=settings.sloppy
        ),
        "brain_mask",
    )
    if settings.template:
        brain.inputs.template = settings.template
    mask = find_precomputed(scan, settings.derivatives, "desc-brain_mask.nii.gz")
    if mask:
        brain.inputs.mask = str(mask)
    correct = step(anat.CorrectBias(), "bias_field")
    register = step(anat.RegisterBrain(seed=settings.random_seed), "register")
    resample = step(
        anat.ResampleToModel(shape=list(config.shape), affine=config.affine.tolist()), "resample"
    )
    lesion = find_lesion(scan, settings.lesion_roi)
    if lesion:
        correct.inputs.lesion = resample.inputs.lesion = str(lesion)
    outputs = pe.Node(
        IdentityInterface(
            [
                "t1w",
                "corrected",
                "mask",
                "details",
                "to_space",
                "from_space",
                "preproc",
                "preproc_mask",
                "lesion",
            ]  # fmt: skip
        ),
        name="outputnode",
    )
    workflow = pe.Workflow(name=name)
    workflow.connect([
        (conform, brain, [("out_file", "in_file"), ("warnings", "warnings")]),
        (conform, correct, [("out_file", "in_file")]),
        (brain, correct, [("out_mask", "mask")]),
        (correct, register, [("out_file", "in_file")]),
        (brain, register, [("out_mask", "mask")]),
        (correct, resample, [("out_file", "in_file")]),
        (brain, resample, [("out_mask", "mask")]),
        (register, resample, [("to_space", "transform")]),
        (conform, outputs, [("out_file", "t1w")]),
        (correct, outputs, [("out_file", "corrected")]),
        (brain, outputs, [("out_mask", "mask"), ("details", "details")]),
        (register, outputs, [("to_space", "to_space"), ("from_space", "from_space")]),
        (resample, outputs, [("out_file", "preproc"), ("out_mask", "preproc_mask")]),
    ])  # fmt: skip
    if lesion:
        workflow.connect(resample, "out_lesion", outputs, "lesion")
    return workflow
