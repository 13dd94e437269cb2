"""A line in the journal from a command: what an admin does must be found there beside the services' lines."""

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from citadel_llm.store import AuditEntry

JOURNAL = "/dev/log"

# syslog(3): LOG_AUTHPRIV, LOG_INFO.
_PRIORITY = 10 * 8 + 6


def write_to_journal(entry: "AuditEntry") -> None:
    """Write an entry of the audit log to the journal. Where there is none, the database alone has it."""
    line = json.dumps({"event": "audit", **entry.as_json()})
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(1)
        journal.sendto(f"<{_PRIORITY}>citadel: {line}".encode(), JOURNAL)
