"""How a run goes on, as a person at a terminal wants to see it, or as a log should keep it."""

import sys
import time

from .expectation import STEP_SECONDS

_QUIET = ("inputnode", "outputnode")


class Progress:
    """Tells which step each scan is at, how long it took, and how long the rest may take.

    At a terminal the running steps are shown with their elapsed and expected time, and the whole
    run with a bar. Elsewhere (a file, a batch job) a scan gets one line when it begins and one when
    it is finished or fails; with ``verbose``, one for each step. Steps that only move data are not
    told.

    Parameters
    ----------
    names : dict
        Name of a scan's workflow to what the scan is to be called.
    steps : dict, optional
        Name of a scan's workflow to the names of its steps, all of them.
    stream : file, optional
        Standard output by default.
    verbose : int
        From 1 on each step is told.
    parallel : int
        Scans that may be worked on at once.

    Notes
    -----
    Used as nipype's status callback; a context manager while a run goes on.
    """

    def __init__(self, names, steps=None, stream=None, verbose=0, parallel=1):
        self.names = names
        self.stream = stream or sys.stdout
        self.verbose = verbose
        self.width = max((len(name) for name in names.values()), default=0)
        self.left = {name: _told(steps.get(name, ())) for name in names} if steps else {}
        self.begun, self.started, self.failed, self.seconds = {}, {}, set(), {}
        self.expected = Expectation(parallel)
        self.screen = _Screen(self, len(names)) if _is_terminal(self.stream) else None

    def __enter__(self):
        if self.screen:
            self.screen.start()
            self._show_whole()
        return self

    def __exit__(self, *error):
        if self.screen:
            self.screen.stop()

    def __call__(self, node, status):
        """nipype's status callback.

        Parameters
        ----------
        node : nipype.pipeline.engine.Node
        status : {"start", "end", "exception"}
        """
        step = node.fullname.rsplit(".", 1)[-1]
        if not _told([step]):
            return
        workflow = workflow_of(node.fullname, self.names)
        now = time.monotonic()
        if status == "start":
            self.started[node.fullname] = now
            if workflow not in self.begun:
                self.begun[workflow] = now
                if not self.verbose and not self.screen:
                    self._tell(workflow, "begins")
            if self.screen:
                self.screen.step_begins(node.fullname, self._name(workflow), step)
            return
        if node.fullname in self.started:
            self._step_ends(node.fullname, workflow, step, status, now)
        elif status == "end" and workflow not in self.failed:
            # Its result stands from an earlier run. (nipype reports the end of steps, too, that it
            # leaves out because one before them failed.)
            self._is_over(workflow, step, now)

    def _step_ends(self, fullname, workflow, step, status, now):
        seconds = now - self.started.pop(fullname)
        if self.screen:
            self.screen.step_ends(fullname)
        self.expected.learn(step, seconds)
        wrong = status == "exception"
        if self.verbose:
            end = "FAILED" if wrong else "done"
            self._tell(workflow, f"{step.replace('_', ' '):<18} {end:<6} {seconds:6.1f} s")
        elif wrong:
            self._tell(workflow, f"FAILED at {step.replace('_', ' ')}")
        if wrong:
            self.failed.add(workflow)
        self._is_over(workflow, step, now)

    def _is_over(self, workflow, step, now):
        self.left.get(workflow, set()).discard(step)
        left = self.left.get(workflow)
        if left is not None and not left and workflow not in self.failed | set(self.seconds):
            self.seconds[workflow] = now - self.begun.get(workflow, now)
            if not self.verbose:
                self._tell(workflow, f"done in {duration(self.seconds[workflow])}")
        self._show_whole()

    def _show_whole(self):
        if self.screen:
            done = len(self.seconds) + len(self.failed)
            rest = [
                step for name in self.left if name not in self.failed for step in self.left[name]
            ]
            self.screen.all(done, self.expected.seconds(rest))

    def _name(self, workflow):
        return named(workflow, self.names)

    def _tell(self, workflow, what):
        line = f"{self._name(workflow):<{self.width}}  {what}"
        if self.screen:
            self.screen.print(line)
        else:
            print(line, file=self.stream, flush=True)


def workflow_of(fullname, names):
    """Name of the workflow that a step belongs to: its scan's, or, where the step is for all of a
    participant's scans, the participant's.

    Parameters
    ----------
    fullname : str
        Of the step's node.
    names : dict
        See :class:`Progress`.

    Returns
    -------
    str
    """
    parts = fullname.split(".")
    return next((part for part in parts if part in names), parts[min(1, len(parts) - 1)])


def named(workflow, names):
    """What a scan's or a participant's workflow is called: ``sub-01_ses-A``, ``sub-01``.

    Parameters
    ----------
    workflow : str
    names : dict
        See :class:`Progress`.

    Returns
    -------
    str
    """
    return names.get(workflow, workflow.removesuffix("_wf").replace("sub_", "sub-", 1))


class Expectation:
    """How long steps take: first what they took elsewhere, then what they take here.

    Parameters
    ----------
    parallel : int
        Scans that may be worked on at once.
    """

    def __init__(self, parallel=1):
        self.parallel = max(1, parallel)
        self.taken = {}

    def learn(self, step, seconds):
        """Note how long a step took."""
        self.taken.setdefault(step, []).append(seconds)

    def step(self, step):
        """Seconds that a step may take; None where nobody knows."""
        if taken := self.taken.get(step):
            return sum(taken) / len(taken)
        usual = STEP_SECONDS.get(step)
        return None if usual is None else usual * self._factor()

    def seconds(self, steps):
        """Seconds that several steps may take, done on all processes."""
        return sum(self.step(step) or 0 for step in steps) / self.parallel

    def _factor(self):
        """This computer's time over the usual, by the steps that were seen."""
        seen = [s for s in self.taken if s in STEP_SECONDS]
        here = sum(sum(self.taken[s]) for s in seen)
        usual = sum(STEP_SECONDS[s] * len(self.taken[s]) for s in seen)
        # The first, short steps say little.
        return here / usual if usual >= 10 else 1.0


class _Screen:
    """The running steps and the whole run at a terminal, by rich."""

    def __init__(self, progress, scans):
        from rich import progress as rich
        from rich.console import Console

        class Times(rich.ProgressColumn):
            def render(self, task):
                text = duration(task.elapsed or 0)
                if expected := task.fields.get("expected"):
                    text += f" of about {duration(expected)}"
                elif end := task.fields.get("end"):
                    left = end - time.monotonic()
                    late = "longer than expected"
                    text += f", {f'about {duration(left)} left' if left > 0 else late}"
                return text

        self.progress = progress
        self.tasks = {}
        self.bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.TextColumn("{task.fields[count]}"),
            Times(),
            console=Console(file=progress.stream),
            refresh_per_second=2,
            transient=True,
        )
        self.whole = self.bar.add_task("all scans", total=scans or 1, count=f"0/{scans}")
        self.scans = scans

    def start(self):
        self.bar.start()

    def stop(self):
        self.bar.stop()

    def print(self, line):
        self.bar.console.print(line, markup=False, highlight=False)

    def step_begins(self, fullname, scan, step):
        expected = self.progress.expected.step(step)
        self.tasks[fullname] = self.bar.add_task(
            f"{scan}  {step.replace('_', ' ')}", total=None, count="", expected=expected
        )

    def step_ends(self, fullname):
        self.bar.remove_task(self.tasks.pop(fullname))

    def all(self, done, left):
        end = time.monotonic() + left if left else None
        self.bar.update(self.whole, completed=done, count=f"{done}/{self.scans}", end=end)


def duration(seconds):
    """Seconds as a person writes them.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> duration(7.4), duration(83), duration(5400)
    ('7 s', '1 min 23 s', '1 h 30 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _told(steps):
    return {s for s in steps if s not in _QUIET and not s.startswith(("ds_", "list_", "sidecar_"))}


def _is_terminal(stream):
    return bool(getattr(stream, "isatty", lambda: False)())
