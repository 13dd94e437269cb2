"""What the log gets of a mistake of our own: its type and where it came from.

Not its text, which may hold some of a request's.
"""

import traceback

import structlog

_log = structlog.get_logger("citadel.gateway")
_SHOWN_FRAMES = 12


def log_unexpected(request_id: str, error: Exception) -> None:
    """Write a line about an exception that nobody expected."""
    frames = traceback.extract_tb(error.__traceback__)[-_SHOWN_FRAMES:]
    _log.error(
        "unexpected failure",
        request_id=request_id,
        type=type(error).__qualname__,
        frames=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )
