"""Logs: JSON for machines, colours for people, and never a key or a prompt.

Redaction is a processor that every line passes, ours and those of libraries: values under names that hold
secrets or clients' text are replaced, keys inside other text are masked, and of an object that is none of the
kinds known here the log shows the kind alone. A message of a third party's exception is text like any other:
do not log exceptions that quote a request.
"""

import contextlib
import datetime
import decimal
import ipaddress
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from citadel_llm.config.schema import Logging

REDACTED = "<redacted>"

_SECRET_NAMES = re.compile(
    r"authori[sz]ation|cookie|passw(or)?d|passphrase|secret|credential|(api|access|private)[_-]?key"
    r"|(^|[_.-])(key|pem|token)$",
    re.IGNORECASE,
)
# Last words of names, of the API's fields too, that hold what clients say or are told: `body`, `raw_body`.
_TEXT_WORDS = frozenset(
    """
    arguments audio body choices completion completions content contents data delta document documents input
    inputs instructions message messages output outputs payload prompt prompts query queries reasoning
    refusal suffix text texts thinking tools transcript
    """.split()  # noqa: SIM905 - one a line would be a page of them
)
_LAST_WORD = re.compile(r"[A-Z]?[a-z]+$|[A-Z]+$")
# What shows in a text that it is a secret. What is before it, and tells what it is, stays.
_SECRET_TEXT = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"((?<![a-z0-9])bearer\s+)[^\s\"']+",
        r"((?<![a-z0-9])(?:authorization|cookie|api-key)[\"']?\s*:\s*[\"']?(?:basic\s+)?)(?!bearer\s)[^\s\"',;]+",
        r"((?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|token)(?:[\"']\s*:|\s*=)\s*[\"']?)[^\s\"',;&]+",
        # A URL's user and password.
        r"(://)[^\s/?#]+(?=@)",
        # Keys, of this API and of others, by how they begin; a JSON Web Token; a private key.
        r"(?<![a-z0-9])()(?:ck|sk|pk|hf|gh[opsu]|glpat|nvapi|xox[abp])[-_][a-z0-9_-]{16,}",
        r"(?<![a-z0-9])()eyj[a-z0-9_-]{8,}\.[a-z0-9_-]+(?:\.[a-z0-9_-]*)?",
        r"()-----begin [a-z ]*private key-----.*?(?:-----end [a-z ]*-----|\Z)",
    )
)
# Whose text is shown, with what is secret in it masked.
_SHOWN = (
    *(BaseException, PurePath, UUID, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta),
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network),
)
# structlog's own, which its formatter takes out.
_INTERNAL = {"_from_structlog", "_logger", "_name", "_record"}

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
    """Mask what shows by itself that it is secret: keys, tokens, passwords in URLs and in assignments."""
    for pattern in _SECRET_TEXT:
        text = pattern.sub(rf"\1{REDACTED}", text)
    return text


def _redact_field(name: str, value: Any) -> Any:
    if name in _INTERNAL:
        return value
    last = _LAST_WORD.search(name)
    if _SECRET_NAMES.search(name) or (last and last[0].lower() in _TEXT_WORDS):
        return REDACTED
    return _redact_value(value)


def _redact_value(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {redact_text(str(key)): _redact_field(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return REDACTED
    return redact_text(str(value)) if isinstance(value, _SHOWN) else f"<{type(value).__name__}>"


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
