"""The tokens of the C++ example beside those of `mamba-export run`, of one engine.

usage: python -m benchmarks.tensorrt.tokens PROGRAM ENGINE PLUGIN_LIBRARY|-
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

PROMPT = list(b"The json module ")
"""Of the example models, whose tokens are bytes."""
NEW_TOKENS = 64


def main(arguments: Sequence[str]) -> int:
    """Print both as JSON; return whether they differ."""
    program, engine, plugins = arguments
    ids = [str(token) for token in PROMPT]
    theirs = [program, engine, plugins, str(NEW_TOKENS), *ids]
    ours = [sys.executable, "-m", "mamba_export_cli", "run", engine, "--tokens", ",".join(ids)]
    ours += ["--max-new-tokens", str(NEW_TOKENS), "--format", "json"]
    cpp = [int(word) for word in _output(theirs).split()]
    python = json.loads(_output(ours))["generations"][0]["tokens"]
    print(json.dumps({"cpp": cpp, "python": python}))
    return int(cpp != python)


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
