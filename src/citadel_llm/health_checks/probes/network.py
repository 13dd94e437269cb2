"""What answers on the network or on a unix socket."""

import asyncio
import contextlib
import datetime
import json
import os
import ssl
from pathlib import Path

import aiohttp
from cryptography import x509

from citadel_llm.config.health import CertificateLimits
from citadel_llm.health_checks.probes.look import Probe
from citadel_llm.health_checks.states import Reading

_READ_BYTES = 64 * 1024
_SHOWN = 200


def http(
    url: str,
    *,
    socket: Path | None = None,
    status: tuple[int, ...] = (200,),
    contains: str | None = None,
    verify: bool = True,
) -> Probe:
    """A URL answers with one of these statuses, and a text, if one is named."""

    async def probe() -> Reading:
        try:
            code, body = await _get(url, socket, verify=verify)
        except (aiohttp.ClientError, OSError) as error:
            return _unreachable(error)
        if code not in status:
            return Reading("failed", f"answers {code}: {_line(body)}" if body else f"answers {code}")
        if contains is not None and contains not in body:
            return Reading("failed", f"answers {code} without {contains!r}")
        return Reading("ok", f"answers {code}")

    return probe


def ready(url: str, wanted: frozenset[str], *, verify: bool = True) -> Probe:
    """The gateway can answer for the models that run always.

    Args:
        url: The gateway's, with /ready.
        wanted: Names of these models.
        verify: Whether its certificate must be good for the name in the URL.
    """

    async def probe() -> Reading:
        try:
            code, body = await _get(url, None, verify=verify)
            models = {each["model"]: each["state"] for each in json.loads(body)["models"]}
        except (aiohttp.ClientError, OSError) as error:
            return _unreachable(error)
        except (ValueError, TypeError, KeyError):
            return Reading("failed", f"answers {code}, and not as a gateway does: {_line(body)}")
        seen = ", ".join(f"{name} {state}" for name, state in models.items()) or "no models"
        if all(models.get(name) == "up" for name in wanted):
            return Reading("ok", seen)
        return Reading("warning" if code == 200 else "failed", f"/ready says {code}: {seen}")  # noqa: PLR2004

    return probe


def tcp(address: str) -> Probe:
    """A port accepts connections."""
    host, port = _host_and_port(address)

    async def probe() -> Reading:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            return _unreachable(error)
        await _close(writer)
        return Reading("ok", "accepts connections")

    return probe


def served_certificate(address: str, limits: CertificateLimits) -> Probe:
    """What a TLS port serves is good for some time. A file that was renewed and not loaded is not served."""
    host, port = _host_and_port(address)

    async def probe() -> Reading:
        # Whether it is good for a name is not asked here: only its end, also of one that has ended.
        context = ssl._create_unverified_context()  # noqa: S323
        try:
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        except OSError as error:
            return _unreachable(error)
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            await _close(writer)
        return _judge([x509.load_der_x509_certificate(der)], limits)

    return probe


def certificate_file(file: Path, limits: CertificateLimits) -> Probe:
    """The certificates in a file are good for some time; the first of them to end counts."""

    async def probe() -> Reading:
        return _judge_file(file, limits)

    return probe


def _judge_file(file: Path, limits: CertificateLimits) -> Reading:
    try:
        return _judge(x509.load_pem_x509_certificates(file.read_bytes()), limits)
    except FileNotFoundError:
        return Reading("failed", f"{file} is not there")
    except ValueError:
        return Reading("failed", f"{file} holds no certificate")


def _judge(certificates: list[x509.Certificate], limits: CertificateLimits) -> Reading:
    end = min(each.not_valid_after_utc for each in certificates)
    left = (end - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(days=1)
    ends = f"ended on {end:%Y-%m-%d}" if left < 0 else f"good until {end:%Y-%m-%d}, {left:.0f} days"
    if left < limits.fail_days:
        return Reading("failed", ends)
    return Reading("warning" if left < limits.warn_days else "ok", ends)


async def _get(url: str, socket: Path | None, *, verify: bool) -> tuple[int, str]:
    connector = aiohttp.UnixConnector(path=str(socket)) if socket else aiohttp.TCPConnector(ssl=verify)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        body = await response.content.read(_READ_BYTES)
        return response.status, body.decode(errors="replace")


def _unreachable(error: aiohttp.ClientError | OSError) -> Reading:
    """Why there was no answer; what this account may not reach is no fault of it.

    Raises:
        PermissionError: It may not.
    """
    cause = getattr(error, "os_error", error)
    if isinstance(cause, PermissionError):
        raise cause
    # asyncio puts words of its own where the system's would stand; a name not found has numbers of its own.
    number = getattr(cause, "errno", None) or 0
    return Reading("failed", _line(os.strerror(number) if number > 0 else str(cause) or repr(cause)))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]
