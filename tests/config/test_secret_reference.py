"""Where a secret is read, in a service and outside of one."""

from pathlib import Path

import pytest

from citadel_llm.config import parts
from citadel_llm.config.parts import SecretReference


def test_a_credential_is_read_where_systemd_took_it_from_when_it_was_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, handed = tmp_path / "kept", tmp_path / "handed"
    kept.mkdir()
    handed.mkdir()
    monkeypatch.setattr(parts, "_CREDENTIALS", str(kept))
    reference = SecretReference(credential="key")

    # A command, which systemd did not start.
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(FileNotFoundError, match="kept/key"):
        reference.read()
    (kept / "key").write_text("new\n")
    assert reference.read() == "new"

    # A service that was started before there was a key, and then one that was started with it.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert reference.read() == "new"
    (handed / "key").write_text("handed over\n")
    assert reference.read() == "handed over"
