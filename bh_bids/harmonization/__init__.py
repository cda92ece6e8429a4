"""The method: from a scan in the model's space to one in the target domain's contrast."""

from .api import HarmonizationResult, harmonize, harmonize_together
from .solvers import SOLVERS

__all__ = ["SOLVERS", "HarmonizationResult", "harmonize", "harmonize_together"]
