"""``torch.compile`` that may fail: without a compiler, or on a platform it does not know."""

import logging

import torch

logger = logging.getLogger(__name__)


class Compiled:
    """A function, compiled at its first call; where that fails, the function itself from then on.

    Parameters
    ----------
    function : callable
        Of tensors; its results must not depend on whether it is compiled.
    """

    def __init__(self, function):
        self._function = function
        self._compiled = torch.compile(function, dynamic=True)

    def __call__(self, *args, **kwargs):
        if self._compiled is not None:
            try:
                return self._compiled(*args, **kwargs)
            except Exception as error:
                reason = str(error).strip().splitlines()[:1]
                logger.warning("torch.compile failed, going on without it: %s", *reason or ["?"])
                self._compiled = None
        return self._function(*args, **kwargs)
