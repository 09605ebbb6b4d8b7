"""`mamba-export env`."""

from __future__ import annotations

from mamba_export_cli.options import FormatOpt
from mamba_export_cli.output import Sink, table
from mamba_export_cli.text import size

EXAMPLE = """Example:
  mamba-export env
  mamba-export env --format json
"""


def env(fmt: FormatOpt = "human") -> None:
    """Show versions, what works on this machine, and why the rest does not."""
    from mamba_export.environment import describe_environment

    facts = describe_environment()
    machine = [
        ("mamba-export", facts.version),
        ("Python", facts.python),
        ("system", facts.system),
        ("processors", facts.cpus),
        ("memory", None if facts.memory_bytes is None else size(facts.memory_bytes)),
        ("GPUs", ", ".join(facts.gpus) or "none"),
    ]
    packages = [
        (
            p.name,
            p.version or "not installed",
            p.minimum,
            "too old" if p.version and p.problem else "",
        )
        for p in facts.packages
    ]
    libraries = [
        ("ONNX Runtime", facts.native.path or facts.native.problem),
        ("TensorRT", facts.plugins.path or facts.plugins.problem),
    ]
    works = [
        ("ok" if c.works else "no", c.name, "; to fix: ".join(filter(None, [c.reason, c.fix])))
        for c in sorted(facts.capabilities, key=lambda c: not c.works)
    ]
    Sink(fmt).result(
        facts,
        table("machine", ["", ""], machine),
        table("packages", ["package", "version", "needed", ""], packages),
        table("our libraries", ["for", "where"], libraries),
        table("what works here", ["", "", "on what, or why not"], works),
    )
