"""How the commands come to the gateway's database, and what they say when they cannot."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from citadel_llm.cli.common import EXIT_NOT_PERMITTED, fail, load_settings
from citadel_llm.config import Settings
from citadel_llm.store import Database, StoreUnavailableError


@contextmanager
def configured_database() -> Iterator[tuple[Database, Settings]]:
    """The database that the settings name; when it cannot be used, a message and exit code 4."""
    settings = load_settings()
    try:
        database = Database(settings.gateway.database_url())
    except OSError as error:
        fail(f"the database's password cannot be read: {error}\n{as_the_gateway()}", EXIT_NOT_PERMITTED)
    try:
        yield database, settings
    except StoreUnavailableError as error:
        fail(f"{error}\n{as_the_gateway()}", EXIT_NOT_PERMITTED)
    finally:
        database.close()


def as_the_gateway() -> str:
    """How to run the present command as the user to whom the database belongs."""
    command = shlex.join(["citadel", *sys.argv[1:]])
    return f"The keys belong to the gateway's user. Try: sudo -u citadel-gateway {command}"
