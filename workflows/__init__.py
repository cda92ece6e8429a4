"""Nipype workflows, installed as ``bh_bids.workflows``."""
