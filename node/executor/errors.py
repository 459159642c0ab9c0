"""Errors of the executor. Each names the field and the rule, so that a receipt can quote them."""

from __future__ import annotations


class ExecutorError(Exception):
    """Base of all errors that the executor and its drivers raise."""


class FieldError(ExecutorError):
    """A fault in one named field; `field` says which, `rule` says what must hold."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class SpecRefused(FieldError):
    """The task's specification breaks a rule; nothing was read, copied or started."""


class VerificationFailed(FieldError):
    """Bytes are not what the specification names; nothing was started."""


class ResultRefused(FieldError):
    """A result file is missing, too large, or not a plain file."""


class DriverUnavailable(ExecutorError):
    """This host lacks something that the driver must enforce; the message says what."""


class StartFailed(ExecutorError):
    """The isolation could not be set up; whatever had been made was taken down again."""


class EgressRefused(FieldError):
    """An address that a workload should reach is none that this node lets anybody reach, or is not there."""


class VolumeRefused(FieldError):
    """A volume cannot be had on this node: no room, another size than the one that is here, no tools."""
