"""What is fitted before a scan is measured, always on other participants than the scan's own.

Participants are dealt to folds. Comparators, the target's reference and the network that labels
tissues are fitted once for each fold, on the target scans (and, where a comparator trains, on the
site's scans) of all other folds.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from threading import Lock, RLock

import numpy as np

from ..comparators import COMPARATORS, LazyScans, Scan, fit_cached
from ..errors import BHError, InputError
from ..evaluation.scan import reference_from_quantiles, reference_from_scans
from ..provenance import model_sha256
from .cases import open_case
from .study import DEFAULT_SPACE
from .tissue_maps import find_map, read_map
from .volumes import read_preproc

#: Target scans that the network that labels tissues is trained on, at most.
MOST_LABELLED = 12


class Fits:
    """Everything fitted, when it is first needed; only what the last case needed is kept.

    Parameters
    ----------
    targets : list of Record
        The target's scans, one of each participant.
    cases : list of Case
        All cases, for the comparators that train.
    model : bh_bids.flow.model.TargetModel or None
        Stands in where a fold has no target scans.
    store : bh_bids.group.store.Store
    folds : int
    seed : int
    device : str
    report : callable
        Takes one sentence at a time.
    segmenter : callable or None
        Makes an unfitted tissue network; None where tissues are told by intensity.
    maps : dict of str to pathlib.Path
        Derivatives that may hold tissue labels of the target's scans; Atropos makes them where
        one of the scans has none.
    """

    def __init__(
        self,
        targets,
        cases,
        model,
        store,
        *,
        folds,
        seed,
        device,
        report,
        segmenter=None,
        maps=None,
    ):
        self.targets, self.cases, self.model, self.store = targets, cases, model, store
        self.seed, self.device, self.report = seed, device, report
        self.segmenter, self.maps = segmenter, maps or {}
        labels = list(dict.fromkeys(record.participant for record in targets))
        self._fold = {label: k % folds for k, label in enumerate(labels)}
        # Who has no target scan needs none of the targets' folds left out.
        others = dict.fromkeys(c.participant for c in cases if c.participant not in self._fold)
        self._fold |= {label: -1 - k % folds for k, label in enumerate(others)}
        self._kept, self._digests, self._lock = {}, {}, RLock()

    def fold(self, case):
        """Fold of a case's participant; negative where they have no target scan."""
        return self._fold[case.participant]

    def _others(self, fold):
        """Target scans of participants of other folds."""
        return [r for r in self.targets if self._fold[r.participant] != fold]

    def fewest_targets(self):
        """Target scans that the comparators of some fold were fitted to, the fewest; 0 if none."""
        return min((len(self._others(fold)) for fold in set(self._fold.values())), default=0)

    def about(self, name, case):
        """Hash of all that a fit depends on.

        Parameters
        ----------
        name : str
            A comparator, "reference" or "segmenter".
        case : Case

        Returns
        -------
        str
        """
        trains = name in COMPARATORS and COMPARATORS[name].trains
        key = (name, self.fold(case), case.site if trains else None)
        if key not in self._digests:
            content = json.dumps(self._content(name, case), sort_keys=True)
            self._digests[key] = hashlib.sha256(content.encode()).hexdigest()
        return self._digests[key]

    def _content(self, name, case):
        scans = [self._hashes(r) for r in self._others(self.fold(case))]
        found = {"name": name, "targets": scans}
        if not scans:
            found["model"] = self.model and model_sha256(self.model.metadata)
        if name in COMPARATORS:
            comparator = COMPARATORS[name]()
            found |= {"settings": comparator.settings(), "recipe": comparator.recipe}
            if comparator.trains:
                training = self._training(case)
                found["sources"] = [[c.site, *self._hashes(c.scan)] for c in training]
        elif name == "segmenter" and self.segmenter is not None:
            network = self.segmenter()
            found |= {"settings": network.settings(), "recipe": network.recipe}
            found["maps"] = [self.store.hash(m) for m in self._maps(self._labelled(case))]
        return found

    def _hashes(self, record):
        return [self.store.hash(record.preproc), self.store.hash(record.mask)]

    def _training(self, case):
        """The site's cases of participants of other folds."""
        fold = self.fold(case)
        return [
            c for c in self.cases
            if c.site == case.site and c.gap == case.gap and self.fold(c) != fold
        ]  # fmt: skip

    def _keep(self, key, make):
        """Make something once for a fold (and site); what another fold or site needed is let go.

        A failure is kept too: what cannot be fitted is not tried again for every scan.
        """
        with self._lock:
            if key not in self._kept:
                place = key[1:]
                same = {k: v for k, v in self._kept.items() if k[1] == place[0]}
                self._kept = {k: v for k, v in same.items() if len(k) < 3 or k[1:] == place}
                try:
                    self._kept[key] = make()
                except BHError as error:
                    self._kept[key] = error
            found = self._kept[key]
        if isinstance(found, BHError):
            raise found
        return found

    def comparator(self, name, case):
        """A comparator, fitted for a case.

        Raises
        ------
        InputError
            If there is nothing to fit it to.
        """
        fold = self.fold(case)
        if COMPARATORS[name].trains:
            return self._keep((name, fold, case.site), lambda: self._train(name, case))
        return self._keep((name, fold), lambda: self._match(name, fold))

    def _match(self, name, fold):
        comparator = COMPARATORS[name]()
        records = self._others(fold)
        if records:
            readers = [_reader(record) for record in records]
            return comparator.fit([], LazyScans(readers), seed=self.seed)
        return restore_from_model(comparator, self.model)

    def _train(self, name, case):
        comparator = COMPARATORS[name]()
        training = self._training(case)
        if comparator.needs_pairs:
            training = [c for c in training if c.target is not None]
            targets = LazyScans([self._truth_reader(c) for c in training])
        else:
            targets = LazyScans([_reader(r) for r in self._others(self.fold(case))])
        sources = LazyScans([self._source_reader(c) for c in training])
        self.report(
            f"{comparator.title}, {case.site}: fitted on {len(sources)} source and {len(targets)} "
            "target scans of other participants"
        )
        return fit_cached(
            comparator, sources, targets, self.store.folder / "comparators",
            seed=self.seed, device=self.device, report=self.report,
        )  # fmt: skip

    def _source_reader(self, case):
        def read():
            opened = open_case(case, self.store, self.seed)
            return Scan(opened.source, opened.mask, case.participant)

        return read

    def _truth_reader(self, case):
        def read():
            opened = open_case(case, self.store, self.seed)
            return Scan(opened.truth, opened.truth_mask, case.participant)

        return read

    def reference(self, case):
        """The target domain's reference for a case; None where nothing is known of it."""
        fold = self.fold(case)

        def make():
            records = self._others(fold)
            if records:
                return reference_from_scans(read_preproc(r)[:2] for r in records)
            intensity = self.model.intensity if self.model is not None else {}
            if not intensity.get("Quantiles") or not intensity.get("Modes"):
                return None
            return reference_from_quantiles(intensity["Quantiles"], intensity["Modes"])

        return self._keep(("reference", fold), make)

    def labeller(self, case):
        """The network that labels tissues, fitted for a case; None where there is none."""
        records = self._labelled(case)
        if self.segmenter is None or not records:
            return None

        def make():
            maps = self._maps(records)
            labels = [partial(self._read_map, m, r) for m, r in zip(maps, records, strict=False)]
            return self.segmenter().fit_cached(
                LazyScans([_reader(r) for r in records]),
                LazyScans(labels) if labels else None,
                folder=self.store.folder / "segmentation",
                seed=self.seed, device=self.device, report=self.report,
            )  # fmt: skip

        return self._keep(("segmenter", self.fold(case)), make)

    def _labelled(self, case):
        return self._others(self.fold(case))[:MOST_LABELLED]

    def _maps(self, records):
        """Files of the scans' tissue labels; none unless every scan has one."""
        space = self.model.space if self.model is not None else DEFAULT_SPACE
        found = [find_map(record, self.maps, space) for record in records]
        return found if all(found) else []

    def _read_map(self, path, record):
        root = next(folder for folder in self.maps.values() if Path(folder) in path.parents)
        return read_map(path, record, root)


def _reader(record):
    def read():
        volume, mask, _ = read_preproc(record)
        return Scan(volume, mask, record.participant)

    return read


def restore_from_model(comparator, model):
    """Fit a comparator that trains nothing to what a model remembers of its target domain.

    Parameters
    ----------
    comparator : bh_bids.comparators.Comparator
    model : bh_bids.flow.model.TargetModel or None

    Returns
    -------
    bh_bids.comparators.Comparator

    Raises
    ------
    InputError
        If there is no model, or it does not remember enough.
    """
    title = comparator.title
    if model is None or model.mean is None:
        raise InputError(f"{title} needs target scans or a model, and there are neither.")
    if comparator.name == "ssimh":
        return comparator.restore({"reference": model.mean})
    if comparator.name in ("gain", "hm", "nyul"):
        return comparator.restore({"quantiles": model.intensity["Quantiles"]})
    raise InputError(f"{title} needs target scans of other participants, and there are none.")


def gap_harmonizer(model, method, seed, device):
    """The harmonization of simulated sources.

    Parameters
    ----------
    model : bh_bids.flow.model.TargetModel
    method, device : str
    seed : int

    Returns
    -------
    callable
        ``f(volume, mask)`` gives a volume in target units.
    """
    from ..harmonization import harmonize

    one = Lock()  # it uses all threads itself

    def run(volume, mask):
        with one:
            result = harmonize(volume, mask, model, method=method, seed=seed, device=device)
        return (result.volume / np.float32(result.target_scale)).astype(np.float32)

    return run
