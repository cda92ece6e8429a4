"""Measuring every image of every case, few cases in memory at a time, what is known not again."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from ..errors import BHError
from ..evaluation.scan import Setting, score_image
from ..evaluation.site_effect import scan_features
from ..provenance import software_versions
from .cases import open_case, read_result
from .tissue_maps import scan_to_model
from .volumes import read_volume

#: Changes whenever the same images would get other figures.
RECIPE = 2


@dataclass
class Row:
    """What was measured of one image.

    Attributes
    ----------
    case : bh_bids.group.volumes.Case
    method : str
        "source", "harmonized", or a comparator.
    scores : dict of str to float
    features : list of float
        For the site effect; empty for simulated gaps.
    thumbnail : str
        Data address of a small picture, or "".
    """

    case: object
    method: str
    scores: dict
    features: list = field(default_factory=list)
    thumbnail: str = ""


class Evaluation:
    """Measures cases.

    Parameters
    ----------
    fits : bh_bids.group.fits.Fits
    store : bh_bids.group.store.Store
    methods : sequence of str
        "source", "harmonized" and comparators.
    seed : int
    harmonize : callable or None
        For simulated gaps; see :func:`bh_bids.group.fits.gap_harmonizer`.
    model_key : str
        Hash of what ``harmonize`` depends on.
    problems : list of str
        Sentences on what could not be measured are added.
    jobs : int
        Cases at once; each takes up to about 1 GB on a grid of 1 mm.

    Attributes
    ----------
    notes : list of str
        Sentences on comparators that could not be fitted.
    """

    def __init__(
        self, fits, store, methods, *, seed, harmonize=None, model_key="", problems=None, jobs=1
    ):
        self.fits, self.store, self.methods, self.seed = fits, store, methods, seed
        self.jobs = max(1, jobs)
        self.harmonize, self.model_key = harmonize, model_key
        self.problems = [] if problems is None else problems
        self.notes = []
        self._software = software_versions()

    def rows(self, cases):
        """All rows, by fold, site and scan.

        Parameters
        ----------
        cases : list of Case

        Yields
        ------
        Row
        """

        def place(case):
            return self.fits.fold(case), case.site

        ordered = sorted(cases, key=place)
        numbered = ((case, f"[{k}/{len(ordered)}]") for k, case in enumerate(ordered, start=1))
        # Threads share what was fitted: all cases of a fold and site, then the next.
        with ThreadPoolExecutor(self.jobs) as pool:
            for _, batch in groupby(numbered, key=lambda item: place(item[0])):
                for found in pool.map(lambda item: self._rows(*item), batch):
                    yield from found

    def _rows(self, case, progress):
        try:
            return list(self._case(case, progress))
        except BHError as error:
            self._tell(f"{case.scan.key} ({case.site}) could not be measured: {error}")
        except Exception as error:  # one bad scan never stops the others
            self._tell(
                f"{case.scan.key} ({case.site}) could not be measured: "
                f"{type(error).__name__}: {error}"
            )
        return []

    def _tell(self, sentence):
        self.problems.append(sentence)
        print(f"bh-bids: {sentence}", file=sys.stderr)

    def note(self, sentence):
        """Say once what is left out.

        Parameters
        ----------
        sentence : str
        """
        if sentence not in self.notes:
            self.notes.append(sentence)
            print(f"bh-bids: left out: {sentence}", file=sys.stderr)

    def available(self, case):
        """Methods that a case has, or could have, an image of."""
        harmonized = case.scan.harmonized if case.gap is None else self.harmonize
        return [m for m in self.methods if m != "harmonized" or harmonized is not None]

    def about(self, case, method):
        """All that a row depends on, as JSON takes it."""
        records = [case.scan] + ([case.target] if case.target not in (None, case.scan) else [])
        found = {
            "recipe": RECIPE,
            "software": self._software,
            "seed": self.seed,
            "gap": case.gap,
            "paired": case.target is not None,
            "images": [self.store.hash(p) for r in records for p in (r.preproc, r.mask)],
            "volume": case.scan.metrics.get("brain_volume_ml"),
            "method": method,
            "reference": self.fits.about("reference", case),
        }
        if self.fits.segmenter is not None:
            found["segmenter"] = self.fits.about("segmenter", case)
        if method == "harmonized":
            own = case.gap is None
            found["result"] = self.store.hash(case.scan.harmonized) if own else self.model_key
        elif method != "source":
            found["fit"] = self.fits.about(method, case)
        return found

    def _case(self, case, progress):
        opened = setting = None
        for method in self.available(case):
            about = self.about(case, method)
            kept = self.store.get("scores", about)
            if kept is None:
                if opened is None:
                    print(f"{progress} {case.scan.key} {case.site}", file=sys.stderr)
                    opened = open_case(case, self.store, self.seed)
                    setting = self._setting(case, opened)
                kept = self._measure(case, method, opened, setting, about)
            if kept is not None:
                yield Row(case, method, kept["scores"], kept["features"], kept["thumbnail"])

    def _measure(self, case, method, opened, setting, about):
        from ..reports.group_pictures import thumbnail

        try:
            image = self.image(case, method, opened)
        except BHError as error:
            if method in ("source", "harmonized"):
                self._tell(f"{case.scan.key} ({case.site}) could not be measured: {error}")
            else:
                self.note(f"{method}, {case.site}: {error}")
            return None

        def compute():
            small = case.gap is None and method in ("source", "harmonized")
            return {
                "scores": score_image(image, setting),
                "features": [] if case.gap else scan_features(image, opened.mask).tolist(),
                "thumbnail": thumbnail(image, opened.mask) if small else "",
            }

        return self.store.recall("scores", about, compute)

    def image(self, case, method, opened):
        """A method's image of a case, target units."""
        if method == "source":
            return opened.source
        if method == "harmonized" and case.gap is not None:
            # The dearest of all: kept by itself, whatever it is measured against.
            images = [self.store.hash(p) for p in (case.scan.preproc, case.scan.mask)]
            about = [*images, case.gap, self.seed, self.model_key, self._software]
            return self.store.recall_array(
                "gaps", about, lambda: self.harmonize(opened.source, opened.mask)
            )
        if method == "harmonized":
            return read_result(case, opened)
        return self.fits.comparator(method, case).apply(opened.source, opened.mask)

    def _setting(self, case, opened):
        network = self.fits.labeller(case)
        labels = {} if network is None else {"label": network.predict, "trained": True}
        return Setting(
            source=opened.source,
            mask=opened.mask,
            reference=self.fits.reference(case),
            truth=opened.truth,
            truth_mask=opened.truth_mask,
            voxel_ml=voxel_volume(case, opened),
            **labels,
        )


def voxel_volume(case, opened):
    """Volume of a voxel of the model's grid in the participant's own head, ml.

    The head was scaled to the template; the brain's volume on the scan's own grid tells how much,
    and so does the transform. NaN where neither is there.
    """
    try:
        volume = float(case.scan.metrics.get("brain_volume_ml"))
    except (TypeError, ValueError):
        volume = 0.0
    if volume > 0:
        # Of a gap that leaves out a part the volume is the whole brain's.
        whole = opened.mask if case.gap is None else read_volume(case.scan.mask)[0] > 0.5
        return volume / max(int(np.count_nonzero(whole)), 1)
    matrix = scan_to_model(case.scan)
    if matrix is None:
        return float("nan")
    grid = abs(float(np.linalg.det(opened.affine[:3, :3]))) / 1000
    return grid / abs(float(np.linalg.det(matrix[:3, :3])))
