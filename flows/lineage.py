"""What a registered version was made from, as a tree and a picture: `python -m flows.lineage models:/NAME@champion`."""

import json
import os
import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path

WIDE = 200  # columns where no terminal says how many there are


def main() -> int:
    """Print the lineage of a version, and draw it where a file is named; the exit code."""
    parser = ArgumentParser(
        prog="python -m flows.lineage",
        description="Show what a registered version was made from, back to the pinned sources.",
    )
    parser.add_argument(
        "version", help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's name: its champion or else challenger"
    )
    parser.add_argument("--json", action="store_true", help="print the graph as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it into this file, too")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()

    from rich.console import Console

    from llm.errors import UserError
    from llm.files import write_atomic
    from tasks.registry.ancestry import ancestry
    from tasks.registry.drawing import as_json, as_svg, as_text

    try:
        root = ancestry(options.version)
        if options.svg:
            write_atomic(options.svg, as_svg(root, datetime.now(UTC)))
        if options.json:
            sys.stdout.write(json.dumps(as_json(root), indent=2) + "\n")
        else:
            Console(width=None if sys.stdout.isatty() else WIDE).print(as_text(root))
        sys.stdout.flush()
    except UserError as error:
        if options.verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # whoever read it has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
