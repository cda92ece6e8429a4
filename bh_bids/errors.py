"""The errors that end with one clear sentence: what is wrong, in which file, what to do.

A traceback is for bugs only; the command line prints these errors' messages alone.
"""


class BHError(Exception):
    """Base of all errors a user can cause and can mend."""


class InputError(BHError):
    """An input (dataset, image, sidecar, option's value) cannot be used."""


def unreadable(path):
    """The InputError about a file that may not be read."""
    return InputError(f"{path} cannot be read: its permissions forbid it.")


class ModelError(BHError):
    """A target-domain model is missing, damaged, or of another space than asked for."""


class DeviceError(BHError):
    """The compute device asked for is not there."""


class StepKilledError(BHError):
    """A step's process was killed from outside, as the system does when memory runs out."""
