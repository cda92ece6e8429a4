"""One frozen record of everything a run was asked to do, in TOML and back."""

import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

from .errors import InputError
from .filters import checked_filters, spell_none
from .limits import available_cpus

# Known here, too, so that the command line need not import what computes.
METHODS = ("map", "paper")
COMPARATORS = ("gain", "hm", "hm-whole", "nyul", "ssimh", "unet", "unet-3plane", "cyclegan")
FAST_COMPARATORS = COMPARATORS[:5]
LAYOUTS = ("derivatives", "bids")


def new_run_uuid():
    """Name of a run that sorts by time and never meets another's.

    Returns
    -------
    str
    """
    return f"{datetime.now():%Y%m%d-%H%M%S}_{uuid.uuid4()}"


@dataclass(frozen=True)
class Settings:
    """What to do, with what, and where to.

    Every field is an option of ``bh-bids`` of the same name; see its ``--help``. Paths are
    absolute; ``derivatives`` maps names to folders; ``bids_filters`` is the content of the filter
    file. The model is given by name or folder, ``participant_label`` without ``sub-``.
    """

    bids_dir: Path
    output_dir: Path
    analysis_level: str = "participant"
    work_dir: Path = Path("work")
    participant_label: tuple = ()
    session_label: tuple = ()
    bids_filters: dict = field(default_factory=dict)
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    derivatives: dict = field(default_factory=dict)
    lesion_roi: Path | None = None
    anat_only: bool = False
    model: str = "default"
    method: str = METHODS[0]
    device: str = "auto"
    skull_strip_t1w: str = "auto"
    template: str | None = None
    output_spaces: tuple = ()
    force: bool = False
    longitudinal: bool = False
    target: str | None = None
    comparators: tuple = FAST_COMPARATORS
    segmentation: bool = False
    simulate_gaps: tuple = ()
    folds: int = 2
    output_layout: str = LAYOUTS[0]
    random_seed: int = 0
    nprocs: int = field(default_factory=available_cpus)
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    low_mem: bool = False
    use_plugin: Path | None = None
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    clean_workdir: bool = False
    write_graph: bool = False
    sloppy: bool = False
    verbose: int = 0
    run_uuid: str = field(default_factory=new_run_uuid)

    def to_toml(self):
        """The settings as TOML text; options that were not given are left out.

        Returns
        -------
        str
        """
        import tomli_w

        values = {}
        for name, value in asdict(self).items():
            if value is None:
                continue
            if name == "bids_filters":
                value = spell_none(value)
            elif isinstance(value, dict):
                value = {k: str(v) if isinstance(v, Path) else v for k, v in value.items()}
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Path):
                value = str(value)
            values[name] = value
        return tomli_w.dumps(values)


_PATHS = {"bids_dir", "output_dir", "work_dir", "bids_database_dir", "lesion_roi", "use_plugin"}
_TUPLES = {"participant_label", "session_label", "output_spaces", "comparators", "simulate_gaps"}
_ANNOTATIONS = {item.name: getattr(item.type, "__name__", item.type) for item in fields(Settings)}


def read_toml(path):
    """Options from a TOML file, in the types that :class:`Settings` holds.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        Only the options that the file gives, without the identifier of the run that wrote it.

    Raises
    ------
    InputError
        If the file cannot be read, is no TOML, or names an unknown option or a value of a wrong
        type.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The configuration file {path} cannot be read: {reason}.") from None
    known = {item.name: item for item in fields(Settings)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(
            f"The configuration file {path} has the unknown option '{unknown[0]}': "
            f"known are {', '.join(known)}."
        )
    values.pop("run_uuid", None)
    return {name: _typed(name, value, path) for name, value in values.items()}


def _typed(name, value, path):
    if name in _TUPLES:
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif name == "derivatives":
        right = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    elif name == "bids_filters":
        # A run without filters leaves an empty table.
        sentence = (
            f"The configuration file {path} gives bids_filters a wrong value: {value!r}. It must "
            'look like bids_filters = {t1w = {acquisition = "mprage"}}.'
        )
        return value if value == {} else checked_filters(value, sentence)
    elif name == "mem_gb":
        right = type(value) in (int, float)
    elif name == "omp_nthreads":
        right = type(value) is int
    else:
        right = type(value) is {"bool": bool, "int": int}.get(_ANNOTATIONS[name], str)
    if not right:
        raise InputError(f"The configuration file {path} gives {name} a wrong value: {value!r}.")
    if name in _TUPLES:
        return tuple(value)
    if name == "derivatives":
        return {key: Path(folder) for key, folder in value.items()}
    return Path(value) if name in _PATHS else value


def for_participant(settings, participant):
    """The settings of one participant's part of a run.

    Parameters
    ----------
    settings : Settings
    participant : str
        Without ``sub-``.

    Returns
    -------
    Settings
    """
    return replace(settings, participant_label=(participant,))
