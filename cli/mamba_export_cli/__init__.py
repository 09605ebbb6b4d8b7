"""The command line: the only place that prints, colours and exits. `mamba_export` does the work."""

from __future__ import annotations

import io
import sys

from mamba_export_cli.signals import Stopped, stop_on_signals, stopped_by

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not end the program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        stop_on_signals()
        # Only now, because it takes a while, and Ctrl-C works from the start.
        from mamba_export_cli.app import app

        app(prog_name="mamba-export")
    except (Stopped, SystemExit):
        if (number := stopped_by()) is not None:
            sys.exit(128 + number)
        raise
