"""Command line: ``python -m emberflow.sandbox DIR [--smtp-port P] [--smtps-port P] ...``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from emberflow.errors import EmberflowError
from emberflow.sandbox.servers import Ports, run


def main() -> int:
    """Run the sandbox until it is told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m emberflow.sandbox", description=run.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="state directory, made when missing")
    for name in ("smtp", "smtps", "imap", "imaps"):
        parser.add_argument(f"--{name}-port", type=int, default=0, metavar="P", help="0: any free port")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ports = Ports(options.smtp_port, options.smtps_port, options.imap_port, options.imaps_port)
    try:
        run(options.directory, ports)
    except EmberflowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
