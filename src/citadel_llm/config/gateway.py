"""The gateway's settings: what it listens on, whom it lets in, where it sends them, and what it notes."""

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator

from citadel_llm.config.parts import (
    HostPath,
    MisfitError,
    ModelName,
    Network,
    Part,
    Port,
    Seconds,
    SecretReference,
)

_Count = Annotated[int, Field(ge=1)]

# Schemes of the databases that there are drivers for.
_DATABASES = {"sqlite", "postgresql", "postgresql+psycopg"}


class Limits(Part):
    """What a key may ask for whose own limits say nothing, and where several gateways count together."""

    requests_per_minute: _Count | None = None
    """Requests a minute; no limit when absent."""
    tokens_per_minute: _Count | None = None
    """Tokens a minute, read and written together; no limit when absent."""
    concurrent_requests: _Count | None = None
    """Requests at once; no limit when absent."""
    tokens_per_day: _Count | None = None
    """Tokens a day (UTC); no limit when absent."""
    tokens_per_month: _Count | None = None
    """Tokens a month (UTC); no limit when absent."""
    store: str | None = None
    """URL of the Valkey or Redis in which several gateways count together, such as
    valkey://10.0.0.5:6379/0; without a password. When absent, each gateway counts by itself."""
    store_password: SecretReference | None = None
    """Where the store's password is to be found, when it needs one."""

    @field_validator("store")
    @classmethod
    def _is_store(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("valkey", "valkeys", "redis", "rediss") or not parts.hostname:
            raise ValueError("must be a URL such as valkey://10.0.0.5:6379/0 (valkeys:// with TLS)")
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError("must hold no password: take it out of the URL and name it in store_password")
        return value

    @model_validator(mode="after")
    def _password_has_a_store(self) -> "Limits":
        if self.store_password and not self.store:
            message = "there is no store that it is for: take it out, or name the store in limits.store"
            raise MisfitError(("store_password",), message)
        return self


class Accounting(Part):
    """How the use of models is noted: first in files on this host (the spool), from there in the database."""

    spool_dir: HostPath = Path("/var/lib/citadel/gateway/spool")
    """Folder of the spool."""
    spool_max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """How large the spool may grow while the database is away."""
    flush_seconds: Seconds = 1.0
    """How often the spool is emptied into the database."""
    keep_days: _Count = 90
    """Days for which each request's record is kept; the sums by day are kept for ever."""


class Admission(Part):
    """How many requests of a model run at once, and how many wait."""

    running_per_engine: _Count = 256
    """Requests that an engine is given at once; what comes beyond waits in the gateway."""
    queue_requests: Annotated[int, Field(ge=0)] = 512
    """Requests that may wait for a model; what comes beyond is refused."""
    queue_seconds: Seconds = 30.0
    """How long a request may wait for its turn."""


class Routing(Part):
    """Which of several engines of a model a request goes to, and what happens when one fails."""

    session_header: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = "x-session-id"
    """Header by which a client says what belongs together: it goes to the same engine."""
    prefix_bytes: Annotated[int, Field(ge=0)] = 4096
    """Bytes of the prompt's beginning that choose the engine, where no session does; 0: they do not."""
    load_factor: Annotated[float, Field(gt=1)] = 1.25
    """How many times the mean load an engine may have before its sessions go to others."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Engines that a request is sent to at most."""
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Requests sent again may be at most this share of all, so that a failure is not made worse."""
    ejection_seconds: Seconds = 1.0
    """For how long an engine that failed gets nothing; doubled each time that it fails again."""
    ejection_max_seconds: Seconds = 60.0
    """For how long at most."""
    stall_seconds: Seconds = 30.0
    """An engine that has requests in hand and makes no progress for so long gets nothing new."""


class WeightedModel(Part):
    """One of the models that an alias stands for."""

    model: ModelName
    """Name of the model."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the alias's requests, in proportion to the others'."""


class Alias(Part):
    """A name that stands for several models, by weight."""

    name: Annotated[str, Field(pattern=r"^[^\s]{1,256}$")]
    """What clients call it."""
    models: Annotated[tuple[WeightedModel, ...], Field(min_length=1)]
    """The models it stands for."""


class Peer(Part):
    """The gateway of another node, which serves that node's models to this one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$")]
    """Name of the node."""
    url: Annotated[str, Field(pattern=r"^https?://[^/?#@]+$")]
    """Where its gateway listens, such as http://10.0.0.12:8000."""
    ca_file: HostPath | None = None
    """Certificates of the authorities that may vouch for it, in PEM; the system's when absent."""
    models: tuple[ModelName, ...] = ()
    """The models that it serves."""


class Cors(Part):
    """Which web pages may call the API from a browser. None, unless they are named."""

    origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/?#\s]+)$")], ...] = ()
    """Origins such as https://chat.example.com; * means every page."""


class Tls(Part):
    """The certificate with which the gateway speaks TLS itself."""

    certificate: HostPath
    """The certificate and those that it rests on, in PEM."""
    key: SecretReference
    """Its private key, in PEM."""


class Tracing(Part):
    """OpenTelemetry traces."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/\S*)?$")] | None = None
    """Where spans go (OTLP over HTTP), such as http://10.0.0.5:4318/v1/traces; when absent, none do."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests that are traced which do not say so themselves."""


class Gateway(Part):
    """The OpenAI-compatible API that clients talk to."""

    address: str = "0.0.0.0"  # noqa: S104 - serving the network is its purpose; the firewall narrows it
    """IP address to listen on."""
    port: Port = 8000
    """TCP port to listen on."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer on it, of which each can keep one core busy. Several count limits together, in
    `limits.store`; what is said here of requests at once and of memory, each has for itself."""
    database: str = "sqlite:////var/lib/citadel/gateway/citadel.db"
    """SQLAlchemy URL of the database that holds keys and usage; without a password."""
    database_password: SecretReference | None = None
    """Where the database's password is to be found, when it needs one."""
    state_dir: HostPath = Path("/var/lib/citadel/gateway")
    """Folder for what the gateway keeps on this host: a signed copy of the keys' hashes, with which it can
    start while the database is away."""
    keys_refresh_seconds: Seconds = 2.0
    """How often the keys are read from the database again: a revoked key is refused after at most this."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 33554432
    """Largest request body accepted, in bytes."""
    body_memory_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Bytes of request bodies held at once, of all requests together; what comes beyond is refused."""
    connect_timeout_seconds: Seconds = 5.0
    """How long connecting to an engine's socket may take."""
    upstream_timeout_seconds: Seconds = 600.0
    """How long an engine may send nothing in the middle of a request."""
    drain_timeout_seconds: Seconds = 60.0
    """How long requests in flight may take to finish when the gateway stops."""
    metrics_allow: tuple[Network, ...] = (
        ipaddress.IPv4Network("127.0.0.0/8"),
        ipaddress.IPv6Network("::1/128"),
    )
    """Networks (CIDR) that may read /metrics."""
    docs: bool = True
    """Whether /docs and /openapi.json are served."""
    tls: Tls | None = None
    """The certificate for https; when absent, the gateway speaks plain HTTP."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks (CIDR) whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    cors: Cors = Cors()
    """Web pages that may call the API."""
    header_timeout_seconds: Seconds = 20.0
    """How long a client may take to send a request's headers."""
    body_timeout_seconds: Seconds = 60.0
    """How long a client may send nothing in the middle of a request's body."""
    write_timeout_seconds: Seconds = 120.0
    """How long a client may take nothing of its answer before the connection is closed."""
    limits: Limits = Limits()
    """What keys may ask for."""
    accounting: Accounting = Accounting()
    """How the use of models is noted."""
    admission: Admission = Admission()
    """How many requests run and wait."""
    routing: Routing = Routing()
    """Which engine a request goes to."""
    aliases: tuple[Alias, ...] = ()
    """Names that stand for several models, by weight. A model's other names stand in its `aliases`."""
    fallbacks: dict[str, Annotated[tuple[ModelName, ...], Field(min_length=1)]] = {}  # noqa: RUF012 - frozen
    """For a model, the models that answer in its stead, in this order, while none of its engines can."""
    peers: tuple[Peer, ...] = ()
    """The gateways of the other nodes."""
    peer_key: SecretReference | None = None
    """Where the key is to be found with which this gateway asks its peers (scope `peer`)."""
    tracing: Tracing = Tracing()
    """Where traces of requests go."""

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            message = f"must be an IP address such as 0.0.0.0 or 127.0.0.1, not {value!r}"
            raise ValueError(message) from None
        return value

    @field_validator("database")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        parts = urlsplit(value)
        if "://" not in value or parts.scheme not in _DATABASES:
            example = "sqlite:////var/lib/citadel/gateway/citadel.db or postgresql+psycopg://user@host/name"
            raise ValueError(f"must be a URL such as {example}")
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError("must hold no password: take it out of the URL and name it in database_password")
        return value

    def database_url(self) -> str:
        """The database's URL with its password in it: for the database driver, never for a log."""
        if self.database_password is None:
            return self.database
        parts = urlsplit(self.database)
        user, _, host = parts.netloc.rpartition("@")
        netloc = f"{user}:{quote(self.database_password.read(), safe='')}@{host}"
        return urlunsplit(parts._replace(netloc=netloc))

    @model_validator(mode="after")
    def _password_has_a_server(self) -> "Gateway":
        # Read all the same, a password that is not there would keep the gateway from starting.
        if self.database_password and self.database.startswith("sqlite"):
            message = "a SQLite file has no password: take it out, or name the server it is for in database"
            raise MisfitError(("database_password",), message)
        return self

    @model_validator(mode="after")
    def _workers_count_together(self) -> "Gateway":
        if self.workers > 1 and self.limits.store is None:
            message = (
                "above 1 it wants limits.store, to count limits together: valkey_state: present sets one up"
                " and names it here; or 1"
            )
            raise MisfitError(("workers",), message)
        return self

    @model_validator(mode="after")
    def _peers_have_a_key(self) -> "Gateway":
        if self.peers and self.peer_key is None:
            raise ValueError("peers want peer_key: the key with which this gateway asks them")
        return self

    @property
    def remote_models(self) -> tuple[str, ...]:
        """The models that peers serve, each once."""
        return tuple(dict.fromkeys(name for peer in self.peers for name in peer.models))
