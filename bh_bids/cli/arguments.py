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


def add_command(commands, name, run, **texts):
    """Add a sub-command with its help.

    Parameters
    ----------
    commands : argparse._SubParsersAction
    name : str
    run : callable
        Called with the parsed options; returns the exit code.
    **texts : str
        ``help``, and ``description`` and ``epilog`` where there are any.

    Returns
    -------
    argparse.ArgumentParser
    """
    command = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    command.set_defaults(run=run)
    return command


def add_description(command):
    """Add what a model's card says of its target domain.

    Parameters
    ----------
    command : argparse.ArgumentParser or argparse._ArgumentGroup
    """
    command.add_argument("--description", default="", help="the target domain in a sentence")
    command.add_argument("--dataset", default="", help="where the scans come from, such as a DOI")
    command.add_argument("--manufacturer", default="", help="of the target scanner")
    command.add_argument("--license", default="", help="licence of the model")


def target_domain(options):
    """The options of :func:`add_description` as a model's card has them, without the licence.

    Parameters
    ----------
    options : argparse.Namespace

    Returns
    -------
    dict
    """
    return {
        "Description": options.description,
        "Dataset": options.dataset,
        "Manufacturer": options.manufacturer,
    }


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
