"""Console program bh-model: train, exchange, describe and verify target-domain models."""

import argparse
import sys

from ..errors import BHError
from .arguments import Parser, add_completion
from .model_files import add_calibrate, add_export, add_import
from .model_show import add_info, add_list, add_verify
from .model_train import add_train
from .pipes import quiet_on_closed_pipe

DESCRIPTION = """\
Train, exchange, describe and verify target-domain models.

A model is a folder with the weights of a normalizing flow that was trained on the target domain's
scans only, their description and their mean volume. bh-bids harmonizes towards it."""

EXAMPLES = """\
examples:
  bh-model list
  bh-model info default
  bh-model train derivatives/bh-bids --output models/philips --name philips \\
      --exclude-participants 30 31 32 --steps 12000 --max-minutes 120
  bh-model train derivatives/bh-bids --output models/philips --name philips \\
      --exclude-participants 30 31 32 --steps 12000 --resume
  bh-model verify models/philips
  bh-model import best.pt --output models/oasis
  bh-model calibrate models/oasis derivatives/bh-bids"""


@quiet_on_closed_pipe
def main(argv=None):
    """Run bh-model.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process where not given.

    Returns
    -------
    int
        0 where all went well, 1 after an error a user can mend (one sentence on standard error).
        Wrong usage exits with 2.
    """
    options = build_parser().parse_args(argv)
    try:
        return options.run(options)
    except BHError as error:
        print(f"bh-model: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bh-model: interrupted", file=sys.stderr)
        return 130


def build_parser():
    """The parser of ``bh-model``.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = Parser(
        prog="bh-model",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_completion(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_train(commands)
    for add in (add_list, add_info, add_verify, add_import, add_calibrate, add_export):
        add(commands)
    return parser


# As torchrun starts it: torchrun -m bh_bids.cli.model train ...
if __name__ == "__main__":
    sys.exit(main())
