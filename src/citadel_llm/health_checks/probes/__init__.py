"""The probes: each looks at one thing once, as its user would, and changes nothing.

A probe is an asynchronous function without arguments that returns a `Reading`; the functions here
make them. Who calls one limits its time and reads its errors: see `look`.
"""

from citadel_llm.health_checks.probes.commands import command
from citadel_llm.health_checks.probes.gpu import gpu
from citadel_llm.health_checks.probes.host import cpu, disk, memory
from citadel_llm.health_checks.probes.look import Probe, look
from citadel_llm.health_checks.probes.network import certificate_file, http, ready, served_certificate, tcp
from citadel_llm.health_checks.probes.processes import pid_file, unit

__all__ = [
    "Probe",
    "certificate_file",
    "command",
    "cpu",
    "disk",
    "gpu",
    "http",
    "look",
    "memory",
    "pid_file",
    "ready",
    "served_certificate",
    "tcp",
    "unit",
]
