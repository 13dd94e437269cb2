"""A new key into a new file that only its owner may read, whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from citadel_llm.cli.common import EXIT_FAILED, EXIT_NOT_PERMITTED, fail

if TYPE_CHECKING:
    from citadel_llm.store import KeyRecord

EXIT_EXISTS = 3


def into_new_file(
    path: Path, make: Callable[[], "tuple[KeyRecord, str]"], undo: Callable[["KeyRecord"], str]
) -> "KeyRecord":
    """Make a key and write it to a file that is not there yet (mode 0600).

    The file is written beside its place and linked into it, which fails if something stands there.

    Args:
        path: The file.
        make: Makes the key; called only when the file's folder can be written to.
        undo: Called when the key was made and could not be written; returns what became of it, for people.
    """
    if os.path.lexists(path):
        fail(f"{path} exists already: name another file, or move it away", EXIT_EXISTS)
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, 0600
    except OSError as error:
        fail(f"{path.parent}: cannot write there: {error.strerror}", EXIT_NOT_PERMITTED)
    try:
        with os.fdopen(descriptor, "w") as file:
            record, plaintext = make()
            try:
                file.write(f"{plaintext}\n")
                file.flush()
                os.fsync(file.fileno())
                os.link(draft, path, follow_symlinks=False)
            except OSError as error:
                fail(f"{path}: cannot write: {error.strerror}; {undo(record)}", EXIT_FAILED)
    finally:
        with suppress(FileNotFoundError):
            Path(draft).unlink()
    return record
