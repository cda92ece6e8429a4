"""A workflow that is run once, as every command does, and so need not be copied first."""

import networkx as nx
import nipype.pipeline.engine as pe


class RunOnceWorkflow(pe.Workflow):
    """nipype's workflow; running it uses it up.

    nipype copies every node twice before it runs them, so that a workflow can be run again. With
    many participants that took half of the time from start to the first step.
    """

    def _create_flat_graph(self):
        self._generate_flatgraph()
        return _Uncopied(self._graph)


class _Uncopied(nx.DiGraph):
    def __deepcopy__(self, memo):
        return self
