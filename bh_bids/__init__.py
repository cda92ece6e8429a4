"""bh-bids: harmonize T1-weighted MR images blindly with a model of the target domain alone.

The public Python API is :func:`load_model` and :func:`harmonize`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bh-bids")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "harmonize", "load_model"]

# Importing torch takes seconds; who only asks for the version or --help must not pay for it.
_LAZY = {"harmonize": "bh_bids.harmonization", "load_model": "bh_bids.flow.model"}


def __getattr__(name):
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])
