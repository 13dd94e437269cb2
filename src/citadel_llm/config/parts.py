"""What the settings are made of: the base of every group, and the types that several groups use."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})]
WholeSeconds = Annotated[int, Field(ge=1, json_schema_extra={"unit": "seconds"})]
Tokens = Annotated[int, Field(ge=1, json_schema_extra={"unit": "tokens"})]
Word = Annotated[str, Field(min_length=1)]


def _is_absolute(value: Path) -> Path:
    if not value.is_absolute():
        message = f"must be an absolute path such as /srv/models, not {str(value)!r}"
        raise ValueError(message)
    return value


HostPath = Annotated[Path, AfterValidator(_is_absolute), Field(json_schema_extra={"pattern": "^/"})]


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

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


# Where systemd takes the gateway's credentials from. The gateway may read them there, too: for its commands,
# which systemd does not start, and for what was added since the service started.
_CREDENTIALS = "/etc/citadel/credentials"


class SecretReference(Part):
    """Where a secret is to be found: a systemd credential of the service, or a file."""

    credential: Word | None = None
    """Name of a systemd credential (`LoadCredential=` in the service's unit)."""
    file: HostPath | None = None
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
        return self.path.read_text(encoding="utf-8").rstrip("\r\n")

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return self.file or self._credential_file(str(self.credential))

    @staticmethod
    def _credential_file(name: str) -> Path:
        given = Path(os.environ.get("CREDENTIALS_DIRECTORY", _CREDENTIALS)) / name
        # systemd hands them over to what it starts. On a reload the folder is named, and may be closed.
        return given if os.access(given, os.R_OK) else Path(_CREDENTIALS) / name
