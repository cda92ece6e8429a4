"""Parts of ``benchmarks/harmonization.py``: quality and time on simulated gaps."""
