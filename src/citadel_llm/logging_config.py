"""Logs: JSON for machines, colours for people, and never a key or a prompt.

Redaction is a processor that every line passes, ours and those of libraries: values under names that hold
secrets or clients' text are replaced, and keys inside other text are masked. A message of a third party's
exception is text like any other: do not log exceptions that quote a request.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from citadel_llm.config.schema import Logging

REDACTED = "<redacted>"

_SECRET_NAMES = re.compile(
    r"authorization|cookie|passw(or)?d|secret|credential|api[_-]?key|private_key", re.IGNORECASE
)
# Names of fields of the API that hold what clients say or are told.
_TEXT_NAMES = frozenset(
    {
        "body",
        "completion",
        "content",
        "input",
        "messages",
        "output",
        "prompt",
        "prompts",
        "text",
        "token",
        "tools",
    }
)
# A bearer token, the password in a URL, a key of this API or of one like it.
_SECRET_TEXT = re.compile(
    r"(?<=bearer )[^\s\"']+|(?<=://)[^\s/@]+(?=@)|\b(?:ck|sk|hf)[-_][A-Za-z0-9_-]{16,}", re.IGNORECASE
)

json_lines = False
"""Whether the log is JSON, so that lines which are JSON already can be written as they are (`write_json`)."""

_service = ""

_SYSLOG_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure_logging(settings: Logging, service: str) -> None:
    """Send all of this process's log, ours and the libraries', to standard output.

    Args:
        settings: Level and format.
        service: Name of the service, put into every line.
    """

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, "service": service}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text, without the frames' variables: those may hold a prompt.
        structlog.processors.format_exc_info,
        redact,
    ]
    global json_lines, _service
    json_lines, _service = not _for_people(settings), service
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    # Else a line that cannot be written is shown on standard error, as it was before the redaction.
    logging.raiseExceptions = False
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def write_json(logger: str, lines: Iterable[bytes]) -> None:
    """Write lines of level info: a quick way for very many, which bypasses the processors and the redaction.

    Args:
        logger: Name for the lines' field `logger`.
        lines: Objects of JSON without their closing brace; the fields that every line has are added.
    """
    if not logging.getLogger(logger).isEnabledFor(logging.INFO):
        return
    start = f"<{_SYSLOG_LEVELS['info']}>".encode() if _writes_to_journal() else b""
    end = b',"service":"%b","level":"info","logger":"%b"}\n' % (_service.encode(), logger.encode())
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(b"".join([start + line + end for line in lines]))
        sys.stdout.buffer.flush()


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide what must not be in a log: a structlog processor."""
    return {name: _redact_field(name, value) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Mask the keys, the bearer tokens and the URLs' users and passwords in a text."""
    return _SECRET_TEXT.sub(REDACTED, text)


def _redact_field(name: str, value: Any) -> Any:
    if name.startswith("_"):  # structlog's own
        return value
    if name.lower() in _TEXT_NAMES or _SECRET_NAMES.search(name):
        return REDACTED
    return _redact_value(value)


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redact_field(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def _for_people(settings: Logging) -> bool:
    return settings.format == "console" or (settings.format == "auto" and sys.stdout.isatty())


def _renderers(settings: Logging) -> list[Processor]:
    if _for_people(settings):
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        plain = structlog.dev.plain_traceback  # the default shows the frames' variables
        return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    return [_JsonRenderer(with_priority=_writes_to_journal())]


class _JsonRenderer:
    """JSON, one object a line; for the journal with the line's level before it, which journald takes off.

    So `journalctl --priority=err` finds errors (sd-daemon(3)).
    """

    def __init__(self, *, with_priority: bool) -> None:
        self._render = structlog.processors.JSONRenderer()
        self._with_priority = with_priority

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = self._render(logger, method, event)
        text = line if isinstance(line, str) else line.decode()
        return f"<{_SYSLOG_LEVELS.get(event['level'], 6)}>{text}" if self._with_priority else text


def _writes_to_journal() -> bool:
    """Whether standard output is the stream that systemd connected to the journal (systemd.exec(5))."""
    try:
        out = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{out.st_dev}:{out.st_ino}"
