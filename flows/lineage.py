"""Print what a registered version was made from, as a tree: `python -m flows.lineage models:/NAME@champion`."""

import json
import os
import sys
from argparse import ArgumentParser

WIDE = 200  # columns, if the output is no terminal


def main() -> int:
    """Print the lineage of a version; the exit code."""
    parser = ArgumentParser(
        prog="python -m flows.lineage",
        description="Show what a registered version was made from, back to the pinned sources.",
    )
    parser.add_argument(
        "version", help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's name: its champion or else challenger"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the tree as JSON")
    form.add_argument("--mermaid", action="store_true", help="print it as a Mermaid flow chart, which GitHub draws")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()

    from llm.errors import UserError

    try:
        _print_lineage(options.version, as_json=options.json, as_mermaid=options.mermaid)
    except UserError as error:
        if options.verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _print_lineage(version: str, *, as_json: bool, as_mermaid: bool) -> None:
    """Print the tree of a version, as text by default."""
    from rich.console import Console

    from tasks.registry import tree
    from tasks.registry.lineage import find_lineage

    root = find_lineage(version)
    if as_json:
        sys.stdout.write(json.dumps(tree.as_json(root), indent=2) + "\n")
    elif as_mermaid:
        sys.stdout.write(tree.as_mermaid(root))
    else:
        Console(width=None if sys.stdout.isatty() else WIDE).print(tree.as_text(root))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
