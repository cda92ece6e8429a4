"""The command line of bh-bids: its options and their checks, nothing that computes."""

import argparse
import errno
import math
import os
import re
from dataclasses import fields, replace
from pathlib import Path

from .. import __version__
from ..dataset import LABEL
from ..errors import InputError
from ..settings import COMPARATORS, LAYOUTS, METHODS, Settings, read_toml
from .arguments import DIRECTORY, FILE, Parser, add_completion, completed

# ITK's seeds are integers of 32 bits with a sign, and one is added.
LARGEST_SEED = 2**31 - 2
DESCRIPTION = """\
Harmonize T1-weighted MR images blindly: bring scans of any scanner to look as if a target
scanner had made them, with a model that was trained on the target's scans alone."""
EPILOG = """\
examples:
  bh-bids /data/study /data/study/derivatives/bh-bids participant
  bh-bids /bids /out participant --dry-run
  bh-bids /bids /out participant --participant-label 01 02 --nprocs 8 --mem-gb 16
  bh-bids /bids /out participant --model models/our-trio --device cuda
  bh-bids /bids /out participant --output-layout bids    (input for fMRIPrep)
  bh-bids /bids /out group
  bh-bids /bids /out group --target ses-trio --comparators hm unet --segmentation

completion in the shell, for bash here (zsh and tcsh alike):
  bh-bids --print-completion bash > ~/.local/share/bash-completion/completions/bh-bids

exit codes: 0 all went well; 1 something failed (the others are finished); 2 wrong usage;
70 no workflow could be built."""


def build_parser():
    """The parser of ``bh-bids``; options that are not given are absent from its namespace.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = Parser(
        prog="bh-bids",
        usage="bh-bids BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    bids = parser.add_argument("bids_dir", type=Path, help="root folder of a BIDS dataset")
    output = parser.add_argument("output_dir", type=Path, help="folder for the derivatives")
    for folder in (bids, output):
        completed(folder, DIRECTORY)
    parser.add_argument(
        "analysis_level",
        choices=("participant", "group"),
        help="participant: harmonize; group: compare the results with the target and with other "
        "methods",
    )
    parser.add_argument("--version", action="version", version=f"bh-bids {__version__}")
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        help="tell every step; -vv: nipype's steps too; -vvv: all that it says",
    )
    add_completion(parser)
    _add_selection(parser.add_argument_group("what to process"))
    _add_harmonization(parser.add_argument_group("harmonization"))
    _add_anatomy(parser.add_argument_group("anatomy"))
    _add_group(parser.add_argument_group("group level"))
    _add_resources(parser.add_argument_group("resources"))
    _add_other(parser.add_argument_group("other"))
    return parser


def _add_selection(group):
    add = group.add_argument
    add("--participant-label", "--participant_label", nargs="+", action="extend", metavar="LABEL",
        help="participants to process, with or without sub-; all by default")  # fmt: skip
    add("--session-label", "--session_label", "--session-id", nargs="+", action="extend",
        metavar="LABEL",
        help="sessions to process, with or without ses-; all by default")  # fmt: skip
    completed(add("--bids-filter-file", type=Path, metavar="FILE",
        help='JSON with further entities, {"t1w": {"acquisition": "mprage"}}'), FILE)  # fmt: skip
    completed(add("--bids-database-dir", type=Path, metavar="DIR",
        help="pybids database of the dataset, made where it does not exist; many jobs can share "
        "it"), DIRECTORY)  # fmt: skip
    add("--skip-bids-validation", "--skip_bids_validation", action="store_true",
        help="do not check the dataset's description")  # fmt: skip
    add("-d", "--derivatives", nargs="+", action="extend", metavar="NAME=PATH",
        help="derivatives with brain masks to reuse (..._desc-brain_mask.nii.gz), for example of "
        "fMRIPrep")  # fmt: skip
    completed(add("-w", "--work-dir", "--work_dir", type=Path, metavar="DIR",
        help="folder for intermediate results (default: work)"), DIRECTORY)  # fmt: skip


def _add_harmonization(group):
    add = group.add_argument
    add("--model", metavar="NAME_OR_DIR",
        help="target-domain model: a packaged one's name or a folder (default: default); "
        "bh-model trains others")  # fmt: skip
    add("--method", choices=METHODS,
        help="map: a bias field, a blur and a gain by surroundings undone, one monotone map of "
        "intensities, and the flow's denoising, each only as far as a scan is unlike the target's "
        "(default); paper: the published BlindHarmony, steps in the image and in the flow's "
        "latent space by turns")  # fmt: skip
    add("--device", metavar="{auto,cpu,cuda[:N]}",
        help="where the flow runs (default: auto, a GPU if there is one)")  # fmt: skip
    add("--output-spaces", nargs="+", action="extend", metavar="SPACE",
        help="grids of the harmonized images: T1w for the scan's own, and the model's space "
        "(default: both)")  # fmt: skip
    add("--output-layout", choices=LAYOUTS,
        help="derivatives: OUTPUT_DIR is a derivatives dataset (default); bids: OUTPUT_DIR is a "
        "raw-like dataset of harmonized scans, which other BIDS Apps take as their input, and the "
        "derivatives lie in OUTPUT_DIR/derivatives/bh-bids")  # fmt: skip
    add("--random-seed", "--random_seed", type=int, metavar="N",
        help="seed of everything random, up to 2147483646 (default: 0)")  # fmt: skip


def _add_anatomy(group):
    add = group.add_argument
    add("--skull-strip-t1w", choices=("auto", "skip", "force"),
        help="skip: scans are skull-stripped already; force: extract the brain anyway; auto: look "
        "(default)")  # fmt: skip
    add("--force", action="store_true",
        help="harmonize scans whose mask or registration failed the automatic checks, too"
        )  # fmt: skip
    add("--longitudinal", action="store_true",
        help="one unbiased template of each participant's scans: one brain mask, one registration "
        "and, per scanner and sequence, one map of intensities for all of them")  # fmt: skip
    completed(add("--lesion-roi", "--lesion_roi", type=Path, metavar="DIR",
        help="folder with lesion masks, sub-01/anat/sub-01_label-lesion_roi.nii.gz; nothing is "
        "estimated inside them (default: those beside the scans)"), DIRECTORY)  # fmt: skip
    add("--anat-only", action="store_true",
        help="stop before harmonization: what bh-model train takes as a target domain's scans"
        )  # fmt: skip
    add("--template", metavar="NAME",
        help="TemplateFlow head template for brain extraction, NAME[:cohort-LABEL][:res-LABEL], "
        "from its cache or the network (default: the packaged one)")  # fmt: skip


def _add_group(group):
    add = group.add_argument
    add("--target", metavar="TARGET",
        help="which scans are the target's: all; ses-LABEL or another entity; or NAME=VALUE with a "
        "column of participants.tsv or a field of the sidecars (default: the scanner on the "
        "model's card)")  # fmt: skip
    add("--comparators", nargs="+", action="extend", choices=(*COMPARATORS, "none"),
        metavar="NAME",
        help=f"methods to compare with: {', '.join(COMPARATORS)}, or none; the last three train "
        "networks (default: the others)")  # fmt: skip
    add(
        "--segmentation",
        action="store_true",
        help="train a network on target scans that labels tissues, and compare its labels",
    )
    add("--simulate-gaps", nargs="*", action="extend", metavar="GAP",
        help="also measure all methods on simulated gaps of the target's scans (default gaps: "
        "exp log gamma0.7 gamma1.3 gamma1.5 tissue bias25 noise2 blur)")  # fmt: skip
    add(
        "--folds",
        type=int,
        metavar="N",
        help="parts of the participants; what is fitted is fitted on the other parts (default: 2)",
    )


def _add_resources(group):
    add = group.add_argument
    add("--nprocs", "--n-cpus", "--n_cpus", "--nthreads", type=int, metavar="N",
        help="processes at once (default: all cores, or a container's share)")  # fmt: skip
    add("--omp-nthreads", type=int, metavar="N",
        help="threads of a step (default: --nprocs divided by the scans, at most 8)")  # fmt: skip
    memory = group.add_mutually_exclusive_group()
    memory.add_argument("--mem-gb", "--mem_gb", type=float, metavar="GB",
                        help="memory to stay under (default: 90 %% of the computer's)")  # fmt: skip
    memory.add_argument("--mem-mb", "--mem_mb", type=float, metavar="MB", help="the same in MB")
    add("--low-mem", action="store_true", help="one step at a time: slower, least memory")
    completed(add("--use-plugin", type=Path, metavar="FILE",
        help="YAML with a nipype plugin and its arguments, for a cluster's scheduler"),
        FILE)  # fmt: skip
    add("--resource-monitor", action="store_true", help="record each step's memory and time")
    add("--clean-workdir", action="store_true",
        help="remove the intermediate results of scans once they are done")  # fmt: skip


def _add_other(group):
    add = group.add_argument
    completed(add("--config-file", type=Path, metavar="FILE",
        help="TOML file with options; the command line wins"), FILE)  # fmt: skip
    add("--dry-run", action="store_true",
        help="say what would be done, how long and how much memory it may take, and do nothing"
        )  # fmt: skip
    add("--reports-only", action="store_true",
        help="only write the participants' reports again")  # fmt: skip
    add("--boilerplate-only", action="store_true",
        help="only write the methods text of the results that are there")  # fmt: skip
    add("--stop-on-first-crash", action="store_true", help="stop when anything fails")
    add("--write-graph", action="store_true", help="write the workflow's graph to the work folder")
    add("--sloppy", action="store_true", help="fast and bad, for trials only")
    add("--notrack", action="store_true", help="accepted; nothing is ever tracked")


ACTIONS = ("dry_run", "reports_only", "boilerplate_only")


def parse(argv=None):
    """Command line and configuration file as settings.

    Parameters
    ----------
    argv : list of str, optional

    Returns
    -------
    settings : Settings
    action : str or None
        One of :data:`ACTIONS`, instead of a full run.

    Raises
    ------
    InputError
        If a file or value cannot be used. Wrong usage exits with 2.
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    actions = [name for name in ACTIONS if given.pop(name, False)]
    if len(actions) > 1:
        parser.error("--dry-run, --reports-only and --boilerplate-only exclude each other")
    action = actions[0] if actions else None
    if given["analysis_level"] == "group" and action in ("reports_only", "boilerplate_only"):
        parser.error(
            f"--{action.replace('_', '-')} is for the participant level only: leave it out, and "
            "the group level writes its report from what it has measured before"
        )
    given.pop("notrack", None)
    config_file = given.pop("config_file", None)
    values = read_toml(config_file) if config_file else {}
    values = _checked_values({**values, **_converted(given, parser)}, parser)
    known = {item.name for item in fields(Settings)}
    settings = Settings(**{name: value for name, value in values.items() if name in known})
    _check(settings, parser)
    absolute = {
        name: Path(getattr(settings, name)).absolute()
        for name in ("bids_dir", "output_dir", "work_dir")
    }
    for folder in (*absolute.values(), settings.bids_database_dir):
        if folder is not None:
            _refuse_unusable(folder)
    return replace(settings, **absolute), action


def _refuse_unusable(folder):
    """Refuse what can be no folder, wherever it is looked at first."""
    reasons = {
        errno.ELOOP: "it is a link that leads back to itself",
        errno.ENAMETOOLONG: "its name is too long",
    }
    try:
        os.stat(folder)
    except OSError as error:
        if error.errno in reasons:
            reason = reasons[error.errno]
            raise InputError(f"{folder} cannot be used ({reason}): give another folder.") from None


def _converted(given, parser):
    """Options in the types of the settings."""
    from ..filters import read_filter_file

    if "mem_mb" in given:
        given["mem_gb"] = given.pop("mem_mb") / 1024
    if "output_spaces" in given:
        given["output_spaces"] = tuple(given["output_spaces"])
    if given.get("simulate_gaps") == []:  # in a configuration file an empty list is none
        from ..simulation.cases import DEFAULT_GAPS

        given["simulate_gaps"] = DEFAULT_GAPS
    if "bids_filter_file" in given:
        given["bids_filters"] = read_filter_file(given.pop("bids_filter_file"))
    if "derivatives" in given:
        pairs = [item.partition("=") for item in given["derivatives"]]
        if not all(name and path for name, _, path in pairs):
            parser.error("--derivatives takes NAME=PATH, such as fmriprep=/data/fmriprep")
        folders = {}
        for name, _, path in pairs:
            if name in folders:
                parser.error(
                    f"--derivatives names two folders {name} ({folders[name]} and {path}): give "
                    "each a name of its own"
                )
            folders[name] = path
        given["derivatives"] = folders
    return given


def _checked_values(values, parser):
    """What is treated alike on the command line and in a configuration file."""
    for name, prefix in (("participant_label", "sub-"), ("session_label", "ses-")):
        if name in values:
            values[name] = tuple(dict.fromkeys(v.removeprefix(prefix) for v in values[name]))
            _refuse_odd_labels(values[name], f"--{name.replace('_', '-')}", prefix)
    if "comparators" in values:
        values["comparators"] = _checked_comparators(values["comparators"], parser)
    if values.get("simulate_gaps"):
        values["simulate_gaps"] = _checked_gaps(values["simulate_gaps"], parser)
    if "derivatives" in values:
        folders = {name: Path(path).absolute() for name, path in values["derivatives"].items()}
        for path in folders.values():
            if not path.is_dir():
                raise InputError(f"The derivatives folder {path} does not exist.")
        values["derivatives"] = folders
    if values.get("lesion_roi") is not None:
        values["lesion_roi"] = Path(values["lesion_roi"]).absolute()
        if not values["lesion_roi"].is_dir():
            raise InputError(f"The folder of lesion masks {values['lesion_roi']} does not exist.")
    return values


def _refuse_odd_labels(labels, option, prefix):
    """Refuse what BIDS knows as no label, such as a pattern of several."""
    for label in labels:
        if not re.fullmatch(LABEL, label):
            raise InputError(
                f"{option} {label!r} is no label: give each as letters and digits, such as "
                f"{prefix}01 or 01; without the option all are processed."
            )


def _checked_comparators(names, parser):
    """Comparators, each once; nothing for 'none'."""
    names = tuple(dict.fromkeys(names))
    unknown = [name for name in names if name not in (*COMPARATORS, "none")]
    if unknown:
        known = ", ".join((*COMPARATORS, "none"))
        parser.error(f"--comparators: there is no comparator {unknown[0]} ({known})")
    if "none" in names and len(names) > 1:
        parser.error("--comparators takes either 'none' or names of comparators")
    return () if names == ("none",) else names


def _checked_gaps(names, parser):
    """Simulated gaps, each once."""
    from ..simulation.cases import CASES

    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"--simulate-gaps: there is no gap {unknown[0]} ({', '.join(CASES)})")
    return tuple(dict.fromkeys(names))


def _check(settings, parser):
    if settings.nprocs < 1 or (settings.omp_nthreads is not None and settings.omp_nthreads < 1):
        parser.error("--nprocs and --omp-nthreads must be at least 1")
    if settings.mem_gb is not None and not 0 < settings.mem_gb < math.inf:
        parser.error("--mem-gb must be positive and finite")
    if settings.folds < 2:
        parser.error("--folds must be at least 2")
    if not 0 <= settings.random_seed <= LARGEST_SEED:
        parser.error(f"--random-seed must be from 0 to {LARGEST_SEED}")
    choices = {"analysis_level": ("participant", "group"), "method": METHODS,
               "output_layout": LAYOUTS,
               "skull_strip_t1w": ("auto", "skip", "force")}  # fmt: skip
    if settings.template:
        from ..anatomy.templates import template_name

        template_name(settings.template)
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            parser.error(f"{name} must be one of {', '.join(allowed)}")
