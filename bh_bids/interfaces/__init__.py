"""Nipype interfaces: each wraps functions of the science packages and has no logic of its own."""
