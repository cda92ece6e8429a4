"""All that is written to the output folder by the workflows."""

from bh_bids.derivatives import HARMONIZATION_FIGURES, VIEWER, lack_masks
from bh_bids.sidecars import grid_of, image_sidecar, provenance


def init_outputs_wf(*, scan, settings, model, key, within=(), name="outputs_wf"):
    """Write one scan's derivatives, the sidecar that marks it as done last.

    That sidecar is the metrics' or, with ``--anat-only``, the preprocessed scan's. Its sink waits
    for all others and is left out if one of them fails. The figures are not waited for: a scan
    without one of them has its results, and is not done. What marks a scan as done from an earlier
    run is removed before the workflow runs, by :func:`bh_bids.derivatives.unmark`.

    Workflow Graph
        sidecars → sinks of images, transforms, tables → sink of the mark

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    key : str
        The scan's provenance key.
    within : sequence of bh_bids.dataset.Scan
        The scans whose template gives this one's brain mask and registration, if any.
    name : str

    Inputs
    ------
    mask, to_space, from_space, preproc, preproc_mask, details
        Of the anatomical workflow, the mask on the scan's own grid.
    harmonized, native, result, metrics, trace
        Of the harmonization workflow.

    Outputs
    -------
    None
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import Function, IdentityInterface

    from bh_bids.evaluation.participant import METRICS, TRACE
    from bh_bids.memory import step_gb

    space = model["Config"]["space"]
    standard = dict(space=space, resolution="1")
    mask_used = not lack_masks(within, settings.derivatives)
    origin = {"Provenance": _told(provenance(scan, settings, model), mask_used)}
    inputs = pe.Node(
        IdentityInterface(
            [
                "mask",
                "to_space",
                "from_space",
                "preproc",
                "preproc_mask",
                "details",
                "harmonized",
                "native",
                "result",
                "metrics",
                "trace",
            ]
        ),
        name="inputnode",
    )
    workflow = pe.Workflow(name=name)
    sinks = []

    def sink(node_name, source, *, meta=None, **entities):
        node = pe.Node(
            _sink(scan, settings, meta=meta, **entities),
            name=node_name,
            mem_gb=step_gb("sink", scan),
        )
        sinks.append((source, node))
        return node

    preproc = _sink_anatomical(sink, scan, model, standard, key, origin)
    checked = pe.Node(
        Function(function=_checked_sidecar, output_names=["meta_dict"]),
        name="sidecar_preproc",
        mem_gb=step_gb("sidecar_preproc", scan),
    )
    checked.inputs.meta = preproc.inputs.meta_dict
    workflow.connect(inputs, "details", checked, "details")
    workflow.connect(checked, "meta_dict", preproc, "meta_dict")
    if settings.anat_only:
        _connect_sinks(workflow, inputs, sinks, preproc)
        return workflow
    columns = {**_dictionary(TRACE[settings.method]), **origin}
    sink("ds_trace", "trace", desc="trace", suffix="metrics", meta=columns)
    grids = [("harmonized", space, standard), ("native", "", {})]
    for source, grid_space, entities in grids:
        if (grid_space or "T1w") not in settings.output_spaces:
            continue
        account = pe.Node(
            Function(function=_harmonized_sidecar, output_names=["meta_dict"]),
            name=f"sidecar_{source}",
            mem_gb=step_gb("sink", scan),
        )
        account.inputs.trait_set(
            scan=scan, settings=settings, model=model, space=grid_space, mask_used=mask_used
        )
        workflow.connect(inputs, "result", account, "result")
        workflow.connect(inputs, "details", account, "details")
        node = sink(f"ds_{source}", source, desc="harmonized", suffix="T1w", **entities)
        workflow.connect(account, "meta_dict", node, "meta_dict")
    # Its sidecar's key says what the scan was done with; see bh_bids.derivatives.is_done.
    done = {**_dictionary(METRICS), "ProvenanceKey": key, **origin}
    mark = sink("ds_metrics", "metrics", desc="harmonization", suffix="metrics", meta=done)
    _connect_sinks(workflow, inputs, sinks, mark)
    return workflow


def _connect_sinks(workflow, inputs, sinks, mark):
    """Give the sinks their files, and the one that marks the scan as done after all others."""
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import Function

    others = [node for _, node in sinks if node is not mark]
    written = [f"written_{node.name}" for node in others]
    last = pe.Node(
        Function(
            function=_after_all,
            input_names=["in_file", *written],
            output_names=["out_file"],
        ),
        name="sidecar_last",
        mem_gb=mark.mem_gb,
    )
    for source, node in sinks:
        if node is mark:
            workflow.connect(inputs, source, last, "in_file")
            workflow.connect(last, "out_file", mark, "in_file")
        else:
            workflow.connect(inputs, source, node, "in_file")
    for name, node in zip(written, others, strict=True):
        workflow.connect(node, "out_file", last, name)


def _sink_anatomical(sink, scan, model, standard, key, origin):
    """Sinks of brain masks, transforms and the preprocessed scan; the last is given back."""
    space = model["Config"]["space"]
    mask = {"Type": "Brain", "Description": "Brain mask", "Sources": [scan.uri], **origin}
    sink("ds_mask", "mask", desc="brain", suffix="mask", meta=mask)
    standard_mask = {**mask, **grid_of(model)}
    sink(
        "ds_preproc_mask",
        "preproc_mask",
        desc="brain",
        suffix="mask",
        meta=standard_mask,
        **standard,
    )
    description = "Brain, bias-corrected and affinely registered, in the scan's own intensities"
    preproc = image_sidecar(scan, model=model, description=description)
    preproc |= {"ProvenanceKey": key, **origin}
    preproc = sink("ds_preproc", "preproc", desc="preproc", suffix="T1w", meta=preproc, **standard)
    for source, ends in (("to_space", ("T1w", space)), ("from_space", (space, "T1w"))):
        direction = {"from": ends[0], "to": ends[1]}
        sink(
            f"ds_{source}",
            source,
            meta={"Sources": [scan.uri], **origin},
            suffix="xfm",
            mode="image",
            extension=".h5",
            **direction,
        )
    return preproc


def init_figures_wf(*, scan, settings, model, name="figures_wf"):
    """Draw one scan's figures and write them.

    Workflow Graph
        plots → sinks of figures

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    name : str

    Inputs
    ------
    t1w, mask
        Scan on RAS axes and its brain mask.
    preproc, preproc_mask, harmonized
        On the model's grid.
    result
        JSON of what the method found.

    Outputs
    -------
    None
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface

    from bh_bids.interfaces import reportlets
    from bh_bids.memory import step_gb

    def plot(interface, name):
        return pe.Node(interface, name=name, mem_gb=step_gb(name, scan))

    inputs = pe.Node(
        IdentityInterface(["t1w", "mask", "preproc", "preproc_mask", "harmonized", "result"]),
        name="inputnode",
    )
    brain = plot(reportlets.PlotBrainMask(), "plot_brain")
    registration = plot(
        reportlets.PlotRegistration(space=model["Config"]["space"]), "plot_registration"
    )
    workflow = pe.Workflow(name=name)
    workflow.connect([
        (inputs, brain, [("t1w", "in_file"), ("mask", "mask")]),
        (inputs, registration, [("preproc", "in_file"), ("preproc_mask", "mask")]),
    ])  # fmt: skip
    figures = [(brain, "out_file", "brain"), (registration, "out_file", "registration")]
    if not settings.anat_only:
        intensity = {name: model["Intensity"][name] for name in ("Quantiles", "Modes")}
        after = plot(
            reportlets.PlotHarmonization(intensity=intensity, model=settings.model),
            "plot_harmonization",
        )
        workflow.connect([
            (inputs, after, [
                ("preproc", "source"), ("preproc_mask", "mask"), ("harmonized", "harmonized"),
                ("result", "result"),
            ]),
        ])  # fmt: skip
        figures += [(after, name, name) for name in (*HARMONIZATION_FIGURES, VIEWER)]
    for node, field, desc in figures:
        sink = pe.Node(
            _sink(scan, settings, datatype="figures", desc=desc, suffix="T1w"),
            name=f"ds_{desc}",
            mem_gb=step_gb("sink", scan),
        )
        workflow.connect(node, field, sink, "in_file")
    return workflow


def _sink(scan, settings, *, meta=None, **entities):
    from bh_bids.interfaces.bids import DerivativesDataSink

    image = entities["suffix"] in ("T1w", "mask") and entities.get("datatype") != "figures"
    sink = DerivativesDataSink(
        base_directory=str(settings.output_dir),
        source_file=str(scan.path),
        check_hdr=False,
        # Said for every file: niworkflows' default does not survive the copying of a workflow.
        compress=image,
        **entities,
    )
    if meta:
        sink.inputs.meta_dict = meta
    return sink


def _dictionary(columns):
    return {name: {"Description": text} for name, text in columns.items()}


def _told(account, mask_used):
    """An account of the inputs, without a brain mask that was left out."""
    return {k: v for k, v in account.items() if mask_used or k != "MaskSHA256"}


def _after_all(in_file, **written):
    """A file, once others are written; runs as a node of its own."""
    return in_file


def _checked_sidecar(details, meta):
    """Sidecar of a preprocessed image with its checks; runs as a node of its own."""
    import json
    from pathlib import Path

    from bh_bids.sidecars import anatomical_checks

    return {**meta, **anatomical_checks(json.loads(Path(details).read_text()))}


def _harmonized_sidecar(result, details, scan, settings, model, space, mask_used):
    """Sidecar of a harmonized image; runs as a node of its own."""
    import json
    from pathlib import Path

    from bh_bids.sidecars import anatomical_checks, harmonization_block, image_sidecar

    where = f"in {space} space" if space else "on the scan's own grid"
    found = json.loads(Path(details).read_text())
    block = harmonization_block(settings, model, json.loads(Path(result).read_text()), found, scan)
    if not mask_used:
        block.pop("MaskSHA256", None)
    description = f"Brain harmonized to the target domain of model {model['Name']}, {where}"
    sidecar = image_sidecar(scan, description=description, model=model if space else None)
    return {**sidecar, **anatomical_checks(found), "Harmonization": block}
