"""`python -m mamba_export_cli` is `mamba-export`."""

from mamba_export_cli import main

main()
