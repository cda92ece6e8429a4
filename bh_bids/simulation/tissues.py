"""Tissue classes of a head and their MR properties at a field strength.

T1 follows the field as a power law (Bottomley et al. 1984, doi:10.1118/1.595535; Rooney et al.
2007, doi:10.1002/mrm.21122) through the literature's values at 1.5 T and 3 T, the apparent
transverse relaxation rate R2* = 1/T2* linearly (Peters et al. 2007,
doi:10.1016/j.mri.2007.02.014). Proton densities are relative to cerebrospinal fluid.

Values at 1.5 T and 3 T, rounded:

* white matter, cortical grey matter, caudate, putamen: T1 of Wright et al. 2008
  (doi:10.1007/s10334-008-0104-8), T2* of Peters et al. 2007;
* cerebrospinal fluid: T1 about 4.3 s at every field (Rooney et al. 2007);
* blood, muscle, optic nerve, spinal cord: Stanisz et al. 2005 (doi:10.1002/mrm.20605);
* subcutaneous fat and marrow: Gold et al. 2004 (doi:10.2214/ajr.183.2.1830343);
* thalamus, pallidum, brain stem lie between white and grey matter in the order that T1 maps
  show (Rooney et al. 2007); choroid plexus, skin, mucosa, dura and cortical bone are
  representative of soft tissue with short T2* and of bone, whose T2* of about 0.4 ms makes
  it dark whatever its T1. Arteries carry fresh inflowing blood and are bright in
  three-dimensional gradient echo: they have an effective, short T1.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Tissue:
    """One tissue class.

    Attributes
    ----------
    name : str
    kind : str
        "CSF", "GM" or "WM" for the tissue map it belongs to, "" outside the brain.
    proton_density : float
        Relative to cerebrospinal fluid.
    t1 : tuple of float
        Longitudinal relaxation time in ms at 1.5 T and 3 T.
    t2star : tuple of float
        Apparent transverse relaxation time in ms at 1.5 T and 3 T.
    """

    name: str
    kind: str
    proton_density: float
    t1: tuple[float, float]
    t2star: tuple[float, float]


TISSUES = (
    Tissue("air", "", 0.0, (1000.0, 1000.0), (10.0, 10.0)),
    Tissue("csf", "CSF", 1.0, (4300.0, 4300.0), (1000.0, 600.0)),
    Tissue("grey", "GM", 0.82, (1197.0, 1607.0), (84.0, 66.0)),
    Tissue("white", "WM", 0.70, (646.0, 838.0), (66.0, 53.0)),
    Tissue("striatum", "GM", 0.80, (1095.0, 1365.0), (57.0, 36.0)),
    Tissue("thalamus", "GM", 0.76, (920.0, 1200.0), (65.0, 48.0)),
    Tissue("pallidum", "GM", 0.73, (780.0, 990.0), (42.0, 26.0)),
    Tissue("brainstem", "WM", 0.72, (725.0, 950.0), (66.0, 52.0)),
    Tissue("choroid plexus", "CSF", 0.90, (1450.0, 1900.0), (80.0, 50.0)),
    Tissue("nerve", "WM", 0.72, (815.0, 1083.0), (60.0, 45.0)),
    Tissue("cord", "", 0.72, (745.0, 993.0), (60.0, 45.0)),
    Tissue("artery", "", 0.90, (500.0, 560.0), (120.0, 60.0)),
    Tissue("vein", "", 0.85, (1441.0, 1932.0), (60.0, 25.0)),
    Tissue("bone", "", 0.20, (250.0, 300.0), (0.5, 0.4)),
    Tissue("marrow", "", 0.60, (288.0, 365.0), (14.0, 9.0)),
    Tissue("fat", "", 0.75, (288.0, 371.0), (30.0, 16.0)),
    Tissue("muscle", "", 0.75, (1008.0, 1412.0), (30.0, 24.0)),
    Tissue("skin", "", 0.65, (870.0, 1150.0), (12.0, 9.0)),
    Tissue("mucosa", "", 0.80, (900.0, 1150.0), (30.0, 20.0)),
    Tissue("vitreous", "", 0.98, (4000.0, 4000.0), (500.0, 250.0)),
    Tissue("dura", "", 0.65, (900.0, 1200.0), (14.0, 10.0)),
)

CODES = {tissue.name: code for code, tissue in enumerate(TISSUES)}
"""Code of every tissue class by its name; 0 is air."""

KINDS = ("CSF", "GM", "WM")
"""The tissue maps written as ground truth."""


def kind_codes(kind):
    """Codes of the tissue classes that make one tissue map.

    Parameters
    ----------
    kind : {"CSF", "GM", "WM"}

    Returns
    -------
    list of int
    """
    return [code for code, tissue in enumerate(TISSUES) if tissue.kind == kind]


def relaxation(field):
    """Proton density and relaxation times of every tissue class at a field strength.

    Parameters
    ----------
    field : float
        Static field in tesla, from 0.2 to 10.5.

    Returns
    -------
    proton_density, t1, t2star : numpy.ndarray of float64, shape (n_classes,)
        In the order of :data:`TISSUES`; times in ms.

    Raises
    ------
    InputError
        If the field is outside the range where the power law is of use.
    """
    if not 0.2 <= field <= 10.5:
        raise InputError(
            f"Magnetic field strength {field:g} T: the relaxation model holds from 0.2 to 10.5 T."
        )
    density = np.array([tissue.proton_density for tissue in TISSUES])
    low, high = np.array([tissue.t1 for tissue in TISSUES]).T
    t1 = low * (field / 1.5) ** np.log2(high / low)
    low, high = 1.0 / np.array([tissue.t2star for tissue in TISSUES]).T
    rate = low + (high - low) * (field - 1.5) / 1.5
    return density, t1, 1.0 / np.maximum(rate, 0.25 * low)
