"""Write the C++ contract table: ``python -m mamba_export.ops > plugins/op_contract.inc``."""

from __future__ import annotations

import sys

from mamba_export.ops import OPS, contract_table

sys.stdout.write(contract_table(OPS))
