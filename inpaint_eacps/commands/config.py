"""`config show`."""

import json
import sys

from inpaint_eacps.arguments import Arguments
from shared.errors import ExitCode


def show(arguments: Arguments) -> ExitCode:
    """Print each setting, its value and its source; as JSON, one object by name."""
    rows = arguments.resolve().rows()
    if arguments.json:
        document = {row.name: {"value": row.value, "source": row.source} for row in rows}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return ExitCode.OK
    widths = [
        max(len(text) for text in column) for column in zip(*((row.name, row.value) for row in rows), strict=True)
    ]
    for row in rows:
        sys.stdout.write(f"{row.name:<{widths[0]}}  {row.value:<{min(widths[1], 40)}}  {row.source}\n")
    return ExitCode.OK
