"""What the command lines of all programs share: suggestions for typing errors, and completion."""

import argparse
import difflib
import re

import shtab

DIRECTORY, FILE = shtab.DIRECTORY, shtab.FILE


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests what was probably meant."""

    def error(self, message):
        """Exit with 2 after usage, the error and, where something similar exists, a suggestion."""
        super().error("\n".join([message, *self._hints(message)]))

    def _hints(self, message):
        if found := re.match(r"unrecognized arguments: (.*)", message):
            options = [name for action in self._actions for name in action.option_strings]
            for word in found.group(1).split():
                near = difflib.get_close_matches(word.partition("=")[0], options, 1, 0.6)
                if near:
                    yield f"Did you mean {near[0]}?"
        elif found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            choices = [word.strip(" '") for word in found.group(2).split(",")]
            near = difflib.get_close_matches(found.group(1), choices, 1, 0.5)
            if near:
                yield f"Did you mean {near[0]}?"
        elif "arguments are required" in message and "bids_dir" in self._destinations():
            yield "Give BIDS_DIR OUTPUT_DIR and the level first, then the options."
        yield f"All options: {self.prog} --help"

    def _destinations(self):
        return {action.dest for action in self._actions}


def add_completion(parser):
    """Let a program print the script that completes its options in a shell.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    shtab.add_argument_to(
        parser,
        "--print-completion",
        help="print a script that completes the options in a shell, and exit",
    )


def completed(action, kind):
    """Mark what a shell completes an argument with.

    Parameters
    ----------
    action : argparse.Action
    kind : dict
        :data:`DIRECTORY` or :data:`FILE`.

    Returns
    -------
    argparse.Action
    """
    action.complete = kind
    return action
