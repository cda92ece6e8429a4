"""The programs' parsers for the page of the command line: without examples, which are no markup."""

import argparse

from bh_bids.cli import model, parser, simulate


def bh_bids():
    """Parser of bh-bids."""
    return _plain(parser.build_parser())


def bh_model():
    """Parser of bh-model."""
    return _plain(model.build_parser())


def bh_simulate():
    """Parser of bh-simulate."""
    return _plain(simulate.build_parser())


def _plain(found):
    found.epilog = found.usage = None
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _plain(command)
    return found
