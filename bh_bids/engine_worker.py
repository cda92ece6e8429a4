"""Imported once by the server that worker processes are forked from."""

import bh_bids.interfaces.anatomical  # noqa: F401
import bh_bids.interfaces.bids  # noqa: F401
import bh_bids.interfaces.harmonization  # noqa: F401
import bh_bids.interfaces.reportlets  # noqa: F401

from .engine import quieten_nipype

quieten_nipype()
