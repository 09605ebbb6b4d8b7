"""The command line: the only place that prints, colours and exits. `mamba_export` does the work."""

from mamba_export_cli.app import main

__all__ = ["main"]
