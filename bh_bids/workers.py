"""Worker processes that outlive the loss of one of them, and tell what each step took.

nipype's own pool waits forever for a worker that the system has killed, as it does when memory runs
out; Python's own takes the steps of all its workers to be lost when one is.
"""

import multiprocessing
import os
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from traceback import format_exception

import psutil
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node

from .errors import StepKilledError, unreadable
from .monitor import Usage, measure

KEPT_GB = 0.5
"""GiB that a worker may still hold when its step is done. One that holds more, as torch leaves it,
gives way to a new one, so that later steps take what they asked for."""


class SturdyMultiProcPlugin(MultiProcPlugin):
    """nipype's MultiProc with a pool of its own for every worker.

    A step whose worker was lost has failed, and the others go on. Steps that need a GPU go first,
    then those of the scan that stands first: scans are finished one after the other, and a GPU is
    fed while the anatomy of later scans is still to come.

    Parameters
    ----------
    plugin_args : dict
        As of nipype's MultiProc, and ``fresh_workers``: whether every step has a new process, so
        that it starts without the memory that others have left.

    Attributes
    ----------
    usage : list of bh_bids.monitor.Usage
        What each finished step took.
    """

    def __init__(self, plugin_args=None):
        super().__init__(plugin_args=plugin_args)
        self.usage = []
        self._idle = []

    def _submit_job(self, node, updatehash=False):
        self._taskid += 1
        taskid = self._taskid
        try:
            pool = self._idle.pop()
        except IndexError:
            pool = self._new_pool()
        future = pool.submit(_run_step, node, updatehash, taskid)
        self._task_obj[taskid] = future
        future.add_done_callback(lambda done: self._store(taskid, node, pool, done))
        return taskid

    def _store(self, taskid, node, pool, future):
        """Keep a step's result, or how its worker was lost; called from the pool's own thread."""
        error = future.exception()
        kept = False
        if error is None:
            result, taken, held_gb = future.result()
            kept = held_gb <= KEPT_GB and not self.plugin_args.get("fresh_workers")
            self.usage.append(
                Usage(node.fullname, **taken, mem_gb=float(node.mem_gb), n_procs=node.n_procs)
            )
        else:
            if isinstance(error, BrokenExecutor):
                error = StepKilledError(
                    f"The step '{node.name.replace('_', ' ')}' was killed by the system, most "
                    f"likely because memory ran out: it takes about {node.mem_gb:.1f} GB."
                )
            result = {"result": None, "traceback": format_exception(error), "taskid": taskid}
        if kept:
            self._idle.append(pool)
        else:
            pool.shutdown(wait=False)
        self._taskresult[taskid] = result

    def _sort_jobs(self, jobids, scheduler="tsort"):
        def urgency(jobid):
            step = self.procs[jobid]
            return not step.is_gpu_node(), step.fullname.split(".")[:3]

        return sorted(jobids, key=urgency)

    def _postrun_check(self):
        super()._postrun_check()
        for pool in self._idle:
            pool.shutdown()

    def kill_workers(self):
        """End the running steps; what they have written so far lies under no final name."""
        for worker in multiprocessing.active_children():
            worker.kill()

    def _new_pool(self):
        return ProcessPoolExecutor(
            max_workers=1,
            initializer=_start_worker,
            initargs=(self._cwd,),
            mp_context=multiprocessing.get_context(self.plugin_args.get("mp_context")),
        )


def _start_worker(folder):
    """Set a worker up: it ends with the process that started it, however that ends."""
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    process_initializer(folder)


def _run_step(node, updatehash, taskid):
    # Where memory runs out, a step is to go, not the process that tells of it.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    try:
        result, taken = measure(run_node, node, updatehash, taskid)
    except FileNotFoundError as error:
        # nipype hashes a step's files before it begins, and asks for its results if that fails.
        if isinstance(error.__context__, PermissionError):
            raise unreadable(error.__context__.filename) from None
        raise
    return result, taken, psutil.Process().memory_info().rss / 1024**3
