"""What the settings are made of: the base of every group, and the types that several groups use."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Seconds = Annotated[float, Field(gt=0)]


def _read_network(value: object) -> object:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as error:
        message = f"must be a network such as 10.0.0.0/8, not {value!r} ({error})"
        raise ValueError(message) from None


# Read before pydantic tries both kinds and tells of two mistakes where there is one.
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_read_network)]


class MisfitError(ValueError):
    """Two settings do not go together. `path` leads to the one to change."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


class Part(BaseModel):
    """A group of settings: it cannot be changed, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SecretReference(Part):
    """Where a secret is to be found: a systemd credential of the service, or a file."""

    credential: str | None = None
    """Name of a systemd credential (`LoadCredential=` in the service's unit)."""
    file: Path | None = None
    """Path of a file that holds the secret and nothing else."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretReference":
        if (self.credential is None) == (self.file is None):
            raise ValueError("must name either a credential or a file, and not both")
        return self

    def read(self) -> str:
        """The secret itself, without the line end.

        Raises:
            OSError: It is not there, or not readable for this user.
        """
        path = self.file
        if path is None:
            path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / str(self.credential)
        return path.read_text(encoding="utf-8").rstrip("\r\n")
