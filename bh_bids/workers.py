"""A pool of worker processes that outlives the loss of one of them.

nipype's own waits forever for a worker that the system has killed, as it does when memory runs out.
"""

import multiprocessing
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from traceback import format_exception

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node


class SturdyMultiProcPlugin(MultiProcPlugin):
    """nipype's MultiProc; steps whose worker was lost have failed, and the others go on.

    Parameters
    ----------
    plugin_args : dict
        As of nipype's MultiProc.
    """

    def _submit_job(self, node, updatehash=False):
        self._taskid += 1
        taskid = self._taskid
        try:
            future = self.pool.submit(run_node, node, updatehash, taskid)
        except BrokenExecutor:
            self.pool.shutdown(wait=False)
            self.pool = self._new_pool()
            future = self.pool.submit(run_node, node, updatehash, taskid)
        self._task_obj[taskid] = future
        future.add_done_callback(lambda done: self._store(taskid, done))
        return taskid

    def _store(self, taskid, future):
        """Keep a step's result, or how its worker was lost; called from the pool's own thread."""
        error = future.exception()
        if error is None:
            self._taskresult[taskid] = future.result()
        else:
            self._taskresult[taskid] = {
                "result": None,
                "traceback": format_exception(error),
                "taskid": taskid,
            }

    def _new_pool(self):
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=process_initializer,
            initargs=(self._cwd,),
            mp_context=multiprocessing.get_context(self.plugin_args.get("mp_context")),
        )
