"""Every error this package raises on purpose: one class a stage, each with its remedy."""

from __future__ import annotations


class MambaExportError(Exception):
    """A failure that the user can act on.

    Args:
        message: what was wrong, in one line.
        hint: what to do about it.
        code: stable dotted identifier, such as ``checkpoint.overlap``; tests and tools match this,
            never the prose.
        file: the file at fault, as the user knows it.
        tensor: the tensor, node, config key or operand at fault.
        option: the option or argument at fault.
        expected: what a correct input would have had.
        found: what this one has.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        code: str,
        file: str | None = None,
        tensor: str | None = None,
        option: str | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.file = file
        self.tensor = tensor
        self.option = option
        self.expected = expected
        self.found = found


class UsageError(MambaExportError):
    """Options or arguments that contradict each other or the artifact."""


class CheckpointError(MambaExportError):
    """A checkpoint is malformed, or its config and its tensors disagree."""


class ArtifactError(MambaExportError):
    """An artifact is malformed, incomplete, or does not match its manifest."""


class MissingInputError(MambaExportError):
    """A file that must be there is not."""


class UnsupportedModelError(MambaExportError):
    """A checkpoint or an artifact is valid, but its family, size, type or kind is not supported."""


class CapabilityError(MambaExportError):
    """This machine or runtime lacks what the request needs."""


class ResourceError(MambaExportError):
    """Out of host or device memory, or past another limit."""


class ExportError(MambaExportError):
    """Tracing or conversion to ONNX failed."""


class EngineError(MambaExportError):
    """TensorRT does not take a graph, or an engine does not fit this machine."""


class SessionError(MambaExportError):
    """A runtime failed to load or run a model."""


class OutputError(MambaExportError):
    """The output cannot be created, or exists already."""


class StorageError(MambaExportError):
    """Disk full, quota, or an input/output error while writing."""


class BusyError(MambaExportError):
    """Another export holds the target."""


class TrustError(MambaExportError):
    """The input would execute or follow something untrusted."""


class ParityError(MambaExportError):
    """The numbers are wrong."""
