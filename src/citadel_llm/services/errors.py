"""How a service ends, and why.

ServiceError           anything that ends a service; carries its exit code
├── StartError         it did not become ready
└── ConfigurationError its settings cannot work: starting it again would not help
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a service's process returns to systemd."""

    OK = 0
    """It was asked to stop, and stopped."""
    FAILED = 1
    """It was running and could not go on."""
    CONFIGURATION = 2
    """Its settings cannot work. Units do not restart it (`RestartPreventExitStatus=2`)."""
    START_FAILED = 3
    """It did not become ready: an error, or its time for starting was over."""


class ServiceError(Exception):
    """The service cannot go on. The message is one line for people."""

    exit_code = ExitCode.FAILED


class StartError(ServiceError):
    """The service did not become ready."""

    exit_code = ExitCode.START_FAILED


class ConfigurationError(ServiceError):
    """The service's settings cannot work on this host."""

    exit_code = ExitCode.CONFIGURATION
