"""Simulated sites: a scanner, its protocol, and what it does to an image."""

import math
from dataclasses import asdict, dataclass, fields

from ..errors import InputError
from .signal import mprage_signal, spgr_signal
from .tissues import CODES, relaxation

_AXES = {"L": "LR", "R": "LR", "P": "AP", "A": "AP", "I": "IS", "S": "IS"}


@dataclass(frozen=True)
class Site:
    """One site. Times in ms, angles in degrees, lengths in mm.

    Attributes
    ----------
    name : str
        Letters and digits: the session is named by it.
    manufacturer, model : str
        For the sidecars.
    field : float
        Static field in tesla.
    sequence : {"mprage", "spgr"}
    tr, te, flip_angle : float
        Repetition time (of the inversion, for MPRAGE), echo time, flip angle.
    ti, echo_spacing : float
        Inversion time and time between the pulses of the train (MPRAGE).
    echoes : int
        Pulses of the train (MPRAGE).
    voxel_size : tuple of float
        Along right-left, anterior-posterior, inferior-superior.
    orientation : str
        Axis codes of the stored array, such as "RAS" or "PSR".
    field_of_view : tuple of float
        Along right-left, anterior-posterior, inferior-superior.
    blur : float
        Full width at half maximum of the point spread, in voxels.
    bias : float
        Standard deviation of the logarithm of the receive field within the head.
    coil : float
        How much brighter the head's surface is than its middle.
    transmit : float
        How much the flip angle falls from the middle to the surface, relative.
    noise : float
        Standard deviation of the noise relative to white matter, at ``voxel_size``.
    gain : float
        White matter's intensity in the stored image.
    rotation, shift : float
        Standard deviation of the head's position, in degrees and mm, about each axis.
    """

    name: str
    manufacturer: str = "Siemens"
    model: str = "Simulated"
    field: float = 3.0
    sequence: str = "mprage"
    tr: float = 2300.0
    te: float = 2.98
    flip_angle: float = 9.0
    ti: float = 900.0
    echo_spacing: float = 7.1
    echoes: int = 176
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    orientation: str = "RAS"
    field_of_view: tuple[float, float, float] = (192.0, 256.0, 256.0)
    blur: float = 1.0
    bias: float = 0.1
    coil: float = 0.1
    transmit: float = 0.1
    noise: float = 0.03
    gain: float = 1000.0
    rotation: float = 3.0
    shift: float = 4.0

    def __post_init__(self):
        if not (self.name.isascii() and self.name.isalnum()):
            raise InputError(f"Site name {self.name!r}: use letters and digits only.")
        if self.sequence not in ("mprage", "spgr"):
            raise InputError(
                f'Site {self.name}: sequence {self.sequence!r} is not "mprage" or "spgr".'
            )
        train = ("ti", "echo_spacing", "echoes") if self.sequence == "mprage" else ()
        for name in ("field", "tr", "te", "flip_angle", "blur", "gain", *train):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"Site {self.name}: {name} must be positive and finite.")
        if self.flip_angle >= 180:
            raise InputError(f"Site {self.name}: flip_angle must be less than 180 degrees.")
        for name in ("bias", "coil", "transmit", "noise", "rotation", "shift"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"Site {self.name}: {name} must not be negative or infinite.")
        for name in ("voxel_size", "field_of_view"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != 3 or not all(0 < v < math.inf for v in value):
                raise InputError(f"Site {self.name}: {name} must be three positive numbers.")
            object.__setattr__(self, name, value)
        if sorted(_AXES.get(code, "") for code in self.orientation) != ["AP", "IS", "LR"]:
            raise InputError(f"Site {self.name}: orientation {self.orientation!r} is not like RAS.")
        try:
            self.signals()
        except ValueError as error:
            raise InputError(f"Site {self.name}: {error}.") from error

    def signals(self, t1_factor=1.0, flip_factor=1.0):
        """Noise-free signal of every tissue class.

        Parameters
        ----------
        t1_factor, flip_factor : float
            Factors on all T1 and on the flip angle.

        Returns
        -------
        numpy.ndarray of float64, shape (n_classes,)
            In the order of :data:`bh_bids.simulation.tissues.TISSUES`.
        """
        density, t1, t2star = relaxation(self.field)
        angle = self.flip_angle * flip_factor
        if self.sequence == "spgr":
            return spgr_signal(
                density, t1 * t1_factor, t2star, tr=self.tr, te=self.te, flip_angle=angle
            )
        return mprage_signal(
            density,
            t1 * t1_factor,
            t2star,
            tr=self.tr,
            te=self.te,
            ti=self.ti,
            flip_angle=angle,
            echo_spacing=self.echo_spacing,
            echoes=self.echoes,
        )

    def sidecar(self):
        """What a scan's JSON sidecar says of the site (BIDS names and units: s, T, degrees).

        Returns
        -------
        dict
        """
        inversion = self.sequence == "mprage"
        sidecar = {
            "Manufacturer": self.manufacturer,
            "ManufacturersModelName": self.model,
            "MagneticFieldStrength": self.field,
            "DeviceSerialNumber": f"simulated-{self.name}",
            "StationName": self.name,
            "InstitutionName": f"Simulated {self.name}",
            "ReceiveCoilName": "simulated",
            "NonlinearGradientCorrection": False,
            "MRAcquisitionType": "3D",
            "ScanningSequence": ["GR", "IR"] if inversion else ["GR"],
            "SequenceVariant": ["SP", "MP"] if inversion else ["SP"],
            "PulseSequenceType": "MPRAGE" if inversion else "SPGR",
            "PulseSequenceDetails": "Simulated: steady state of the ideally spoiled sequence",
            "SequenceName": "mprage" if inversion else "spgr",
            "RepetitionTime": self.tr / 1000,
            "EchoTime": self.te / 1000,
            "FlipAngle": self.flip_angle,
        }
        if inversion:
            sidecar["InversionTime"] = self.ti / 1000
            sidecar["RepetitionTimePreparation"] = self.tr / 1000
            sidecar["RepetitionTimeExcitation"] = self.echo_spacing / 1000
        return sidecar


PRESETS = {
    site.name: site
    for site in (
        Site(
            "siteA",
            manufacturer="Philips",
            model="Ingenia",
            tr=2500.0,
            te=3.7,
            ti=1000.0,
            flip_angle=8.0,
            echo_spacing=8.2,
            echoes=192,
            orientation="LAS",
            bias=0.07,
            coil=0.10,
            transmit=0.10,
            noise=0.025,
            gain=1450.0,
        ),
        Site(
            "siteB",
            manufacturer="GE",
            model="Signa HDxt",
            field=1.5,
            sequence="spgr",
            tr=20.0,
            te=4.2,
            flip_angle=30.0,
            voxel_size=(1.2, 0.94, 0.94),
            orientation="RAS",
            blur=1.15,
            bias=0.12,
            coil=0.05,
            transmit=0.04,
            noise=0.045,
            gain=5200.0,
        ),
        Site(
            "siteC",
            manufacturer="Siemens",
            model="Trio",
            orientation="PSR",
            bias=0.22,
            coil=0.35,
            transmit=0.18,
            noise=0.04,
            gain=420.0,
        ),
        Site(
            "siteD",
            manufacturer="Siemens",
            model="Avanto",
            field=1.5,
            tr=2400.0,
            te=3.6,
            ti=1000.0,
            flip_angle=8.0,
            echo_spacing=8.6,
            echoes=160,
            voxel_size=(1.2, 1.25, 1.25),
            orientation="PSR",
            blur=1.1,
            bias=0.10,
            coil=0.10,
            transmit=0.04,
            noise=0.055,
            gain=240.0,
        ),
        Site(
            "siteE",
            manufacturer="GE",
            model="Discovery MR750",
            tr=1500.0,
            te=3.0,
            ti=600.0,
            flip_angle=12.0,
            echo_spacing=6.4,
            echoes=150,
            orientation="LPS",
            bias=0.16,
            coil=0.20,
            transmit=0.15,
            noise=0.03,
            gain=7800.0,
        ),
    )
}
"""The sites that come with the package, by name; siteA is nearest to the packaged target."""


def site_from_dict(name, values):
    """A site from a table of its settings, on top of a preset where ``like`` names one.

    Parameters
    ----------
    name : str
    values : dict
        Attributes of :class:`Site`, and optionally ``like``.

    Returns
    -------
    Site

    Raises
    ------
    InputError
        If a name or a value is not a site's.
    """
    values = dict(values)
    base = {}
    if "like" in values:
        like = values.pop("like")
        if like not in PRESETS:
            raise InputError(f"Site {name}: there is no preset {like!r} ({', '.join(PRESETS)}).")
        base = asdict(PRESETS[like])
    elif name in PRESETS:
        base = asdict(PRESETS[name])
    defaults = {field.name: field.default for field in fields(Site) if field.name != "name"}
    for key, value in values.items():
        if key not in defaults:
            raise InputError(f"Site {name}: {key!r} is not a setting of a site.")
        if not _same_kind(value, defaults[key]):
            raise InputError(f"Site {name}: {key} = {value!r} has the wrong type.")
    return Site(**{**base, **values, "name": name})


def _same_kind(value, default):
    """Whether a value from TOML can stand in for a default."""
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(_same_kind(v, 1.0) for v in value)
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    return isinstance(value, int if isinstance(default, int) else (int, float))


def load_sites(path):
    """Sites of a TOML file: one table for each, named by it.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    dict of Site
        In the file's order.

    Raises
    ------
    InputError
        If the file cannot be read or a site in it is wrong.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise InputError(f"The site file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The site file {path} is not valid TOML: {error}.") from error
    wrong = [name for name, table in tables.items() if not isinstance(table, dict)]
    if wrong or not tables:
        raise InputError(f"The site file {path} must hold one table per site, as in [siteX].")
    return {name: site_from_dict(name, table) for name, table in tables.items()}


def white_matter_signal(site):
    """Signal of white matter at a site, the reference of its noise and gain.

    Parameters
    ----------
    site : Site

    Returns
    -------
    float
    """
    return float(site.signals()[CODES["white"]])
