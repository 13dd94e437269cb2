"""The services that are not on the machine: each asked in its own protocol, all at once."""

import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from . import http, postgresql
from .connection import READY, TIMED_OUT, WRONG, Connection, ServiceError, tls_of
from .terms import Facts, Finding


class Answer(NamedTuple):
    """How a service is: a word of `connection`, what was seen, and the ms until connected and answered."""

    word: str
    said: str
    connected_ms: float | None = None
    answered_ms: float | None = None


def _ask_tcp(connection: Connection, service: Facts) -> str:
    http.begin(connection, service)
    return "a TLS port" if tls_of(service) != "off" else "a TCP port; who listens there was not asked"


_KINDS: dict[str, Callable[[Connection, Facts], str]] = {
    "postgresql": postgresql.ask_postgresql,
    "pgvector": postgresql.ask_pgvector,
    "qdrant": http.ask_qdrant,
    "prometheus": http.ask_prometheus,
    "http": http.ask_http,
    "tcp": _ask_tcp,
}
_SHOWN = {
    "postgresql": "PostgreSQL",
    "pgvector": "PostgreSQL with pgvector",
    "qdrant": "Qdrant",
    "prometheus": "Prometheus",
    "http": "HTTP",
    "tcp": "TCP",
}
_REMEDIES = {
    "not ready": "look at the service's own log, and wait until it serves",
    "refused": "start the service, or correct the port of its entry",
    "timed out": "open the firewalls between this host and it, or correct its entry",
    "wrong service": "correct host, port, kind or tls of its entry",
    "bad TLS": "correct the service's certificate, or tls and ca_file of its entry",
    "name unknown": "correct the name, or the name servers in /etc/resolv.conf",
    "unreachable": "look at this host's network and routes",
}


def ask(service: Facts, timeout: float) -> Answer:
    """Ask one service, in `timeout` seconds at most for each of its steps."""
    started = time.monotonic()
    connection = None
    try:
        connection = Connection(service["host"], int(service["port"]), timeout)
        said = _KINDS[service["kind"]](connection, service)
    except ServiceError as error:
        return Answer(error.word, error.said, connection.connected_ms if connection else None)
    except (ValueError, struct.error) as error:
        # What a stranger sends need not be what its first words promised.
        return Answer(WRONG, f"what answers cannot be read ({error})")
    finally:
        if connection:
            connection.close()
    return Answer(READY, said, connection.connected_ms, round((time.monotonic() - started) * 1000, 1))


def ask_all(services: list[Facts], timeout: float) -> list[Answer]:
    """Ask all at once; one that keeps us longer than `timeout` seconds, whatever it does, has timed out."""
    answers: dict[int, Answer] = {}

    def run(index: int, service: Facts) -> None:
        answers[index] = ask(service, timeout)

    # Threads that may be left behind: resolving a name has no time limit, and a server may drip.
    threads = [
        threading.Thread(target=run, args=(index, service), daemon=True)
        for index, service in enumerate(services)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout + 0.5
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = Answer(TIMED_OUT, f"no whole answer within {timeout:g} s")
    return [answers.get(index, late) for index in range(len(services))]


def facts(service: Facts, answer: Answer) -> Facts:
    """Return what lasts of an answer."""
    return {
        "name": service["name"],
        "kind": service["kind"],
        "host": service["host"],
        "port": int(service["port"]),
        "tls": tls_of(service),
        "state": answer.word,
        "said": answer.said,
    }


def finding(service: Facts, answer: Answer) -> Finding:
    """Return the finding for a service; how long it took varies."""
    timing = ""
    if answer.connected_ms is not None:
        timing = f"connected in {answer.connected_ms} ms"
    if answer.answered_ms is not None:
        timing += f", answered in {answer.answered_ms} ms"
    secured = {"off": "", "on": " over TLS", "verify": " over verified TLS"}[tls_of(service)]
    return Finding(
        requirement=f"service {service['name']}",
        found=answer.said if answer.word == READY else f"{answer.word}: {answer.said}",
        wanted=f"{_SHOWN[service['kind']]} at {service['host']}:{service['port']}{secured}",
        met=answer.word == READY,
        remedy=f"{_REMEDIES.get(answer.word, '')} (citadel_external_services)"
        if answer.word != READY
        else "",
        part=f"service:{service['name']}",
        now=timing,
    )
