"""The Boutiques descriptor of bh-bids, made from its parser: python -m bh_bids.cli.boutiques."""

import argparse
import json
import sys

from .. import __version__
from .parser import DESCRIPTION, build_parser

_LEFT_OUT = {"help", "version", "print_completion"}


def descriptor():
    """Describe the command line as Boutiques (schema 0.5) wants it.

    Returns
    -------
    dict
    """
    actions = [a for a in build_parser()._actions if a.dest not in _LEFT_OUT]
    inputs = [_input(action) for action in actions]
    positional = {"bids_dir", "output_dir", "analysis_level"}
    inputs.sort(key=lambda item: item["id"] not in positional)
    keys = " ".join(item["value-key"] for item in inputs)
    return {
        "name": "bh-bids",
        "description": " ".join(DESCRIPTION.split()),
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": f"bh-bids {keys}",
        "inputs": inputs,
        "groups": [
            {
                "id": "memory",
                "name": "Memory, in either unit",
                "members": ["mem_gb", "mem_mb"],
                "mutually-exclusive": True,
            }
        ],
        "output-files": [
            {
                "id": "results",
                "name": "Derivatives",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": [
            {"code": 1, "description": "something failed; all else is finished"},
            {"code": 2, "description": "wrong usage"},
            {"code": 70, "description": "no workflow could be built"},
        ],
        "tags": {"domain": ["neuroinformatics", "mri"], "toolType": ["bids-app"]},
    }


def _input(action):
    options = [name for name in action.option_strings if name.startswith("--")]
    item = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": (action.help or "").replace("%%", "%"),
        "value-key": f"[{action.dest.upper()}]",
        "optional": bool(action.option_strings),
        "type": "String",
    }
    if options:
        item["command-line-flag"] = options[0]
    if action.dest == "bids_dir":
        item["type"] = "File"
    if isinstance(action, argparse._StoreTrueAction):
        item["type"] = "Flag"
    elif isinstance(action, argparse._CountAction):
        item |= {"type": "Flag", "command-line-flag": "-v"}
    elif action.type in (int, float):
        item |= {"type": "Number", "integer": action.type is int}
    if action.choices:
        item["value-choices"] = list(action.choices)
    if action.nargs == "+":
        item["list"] = True
    return item


if __name__ == "__main__":
    json.dump(descriptor(), sys.stdout, indent=2)
    print()
