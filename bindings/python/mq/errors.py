"""The exceptions of the package, one for each group of statuses of the C library."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """Outcome of a call, with the names and numbers of `mq_status` in mq.h."""

    MQ_OK = 0
    MQ_ERR_INVALID_ARGUMENT = 1
    MQ_ERR_CONFIG = 2
    MQ_ERR_UNSUPPORTED = 3
    MQ_ERR_NOT_FOUND = 4
    MQ_ERR_ALREADY_EXISTS = 5
    MQ_ERR_STATE = 6
    MQ_ERR_NUMERIC = 7
    MQ_ERR_BUSY = 8
    MQ_ERR_CALLBACK = 9
    MQ_ERR_OUT_OF_MEMORY = 10
    MQ_ERR_INTERNAL = 11
    MQ_ERR_POISONED = 12
    MQ_ERR_CANCELLED = 13
    MQ_ERR_CUDA = 14


class MqError(RuntimeError):
    """A call of the library failed; `str()` is its one line of text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        #: The C status, such as 2.
        self.status = int(status)
        #: The line of text of the library.
        self.text = text

    @property
    def status_name(self) -> str:
        """The name of the status in mq.h, such as "MQ_ERR_CONFIG"."""
        try:
            return Status(self.status).name
        except ValueError:
            return f"status {self.status}"

    def __str__(self) -> str:
        return self.text


class InvalidArgumentError(MqError, ValueError):
    """MQ_ERR_INVALID_ARGUMENT: an argument is out of range, or an array does not fit."""


class ConfigError(MqError, ValueError):
    """MQ_ERR_CONFIG: a configuration, preset, attribute set or algorithm is not valid."""


class UnsupportedError(MqError, NotImplementedError):
    """MQ_ERR_UNSUPPORTED: valid, but not built into this version."""


class NotFoundError(MqError, LookupError):
    """MQ_ERR_NOT_FOUND: a name or wildcard matches nothing."""


class AlreadyExistsError(MqError, ValueError):
    """MQ_ERR_ALREADY_EXISTS: the name is taken."""


class StateError(MqError):
    """MQ_ERR_STATE: the call does not fit the state of the model."""


class NumericError(MqError, ValueError):
    """MQ_ERR_NUMERIC: NaN, Inf or negative values where they cannot be quantized."""


class BusyError(MqError):
    """MQ_ERR_BUSY: another call holds the model."""


class OutOfMemoryError(MqError, MemoryError):
    """MQ_ERR_OUT_OF_MEMORY: memory could not be had, or `memory_limit` is too low for a layer."""


class CancelledError(MqError):
    """MQ_ERR_CANCELLED: `Model.cancel` was called; the model is as it was before the call."""


class CudaError(MqError):
    """MQ_ERR_CUDA: no CUDA driver or device, one that is too old, or an error of the driver."""


_CLASSES: dict[int, type[MqError]] = {
    Status.MQ_ERR_INVALID_ARGUMENT: InvalidArgumentError,
    Status.MQ_ERR_CONFIG: ConfigError,
    Status.MQ_ERR_UNSUPPORTED: UnsupportedError,
    Status.MQ_ERR_NOT_FOUND: NotFoundError,
    Status.MQ_ERR_ALREADY_EXISTS: AlreadyExistsError,
    Status.MQ_ERR_STATE: StateError,
    Status.MQ_ERR_NUMERIC: NumericError,
    Status.MQ_ERR_BUSY: BusyError,
    Status.MQ_ERR_OUT_OF_MEMORY: OutOfMemoryError,
    Status.MQ_ERR_CANCELLED: CancelledError,
    Status.MQ_ERR_CUDA: CudaError,
}


def error_for(status: int, text: str) -> MqError:
    """The exception for a failed call."""
    return _CLASSES.get(status, MqError)(status, text)
