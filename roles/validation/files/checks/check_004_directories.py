"""Task-004: the project's folders, with their owners and modes.

What is executed or obeyed is root's, and so is the folder that holds it; the operator owns the rest.
"""

import pytest
from testinfra.host import Host

from checks.probe import modes, said
from checks.recorder import Evidence
from checks.site import Site

ROOT = "directory root:root 755"


def assert_modes(host: Host, wanted: dict[str, str], evidence: Evidence) -> None:
    """Compare type, owner and mode of paths."""
    found = modes(host, wanted)
    wrong = [
        f"{path} is {found.get(path, 'absent')}, not {mode}"
        for path, mode in wanted.items()
        if found.get(path) != mode
    ]
    assert not wrong, "; ".join(wrong)
    evidence(", ".join(wanted) if len(wanted) < 4 else f"{len(wanted)} folders, such as {next(iter(wanted))}")


def operator(site: Site, mode: str = "755") -> str:
    """How the operator's folders are."""
    return f"directory {site.user}:{site.group} {mode}"


@pytest.mark.item("004", "Base project directory created (/opt/citadel)")
def check_base(host: Host, site: Site, evidence: Evidence) -> None:
    assert_modes(host, {site.root: ROOT}, evidence)


@pytest.mark.item("004", "Source code directory structure created")
@pytest.mark.item("004", "Source code directory structure validated")
def check_source(host: Host, site: Site, evidence: Evidence) -> None:
    base = f"{site.root}/src/citadel_llm"
    folders = said(host, "find %s -type d", base).splitlines()
    assert len(folders) > 25, f"only {len(folders)} folders below {base}"
    assert_modes(host, dict.fromkeys(folders, operator(site)), evidence)


@pytest.mark.item("004", "Configuration directories created (global, services, features, environments)")
@pytest.mark.item("004", "Configuration directory structure validated")
def check_configuration(host: Host, site: Site, evidence: Evidence) -> None:
    names = ("global", "services", "features", "environments")
    assert_modes(host, {f"{site.root}/config/{name}": ROOT for name in names}, evidence)


@pytest.mark.item("004", "Secrets directory created with proper permissions")
def check_secrets(host: Host, site: Site, evidence: Evidence) -> None:
    assert_modes(host, {f"{site.root}/secrets": operator(site, "700")}, evidence)
    for user in ("citadel-gateway", "citadel-engine", "citadel-health", "nobody"):
        assert host.run(f"runuser -u {user} -- ls {site.root}/secrets").rc != 0, (
            f"{user} can list the secrets"
        )


@pytest.mark.item("004", "Model storage directories created on NVMe (/mnt/nvme0n1/models)")
def check_models(host: Host, site: Site, evidence: Evidence) -> None:
    folders = [site.models_root, *(f"{site.models_root}/{model['name']}" for model in site.models)]
    assert_modes(host, dict.fromkeys(folders, operator(site)), evidence)


@pytest.mark.item("004", "Log storage directories created on archive storage (/mnt/sda/logs/llm)")
def check_logs(host: Host, site: Site, evidence: Evidence) -> None:
    folders = [site.logs_root, *(f"{site.logs_root}/{name}" for name in ("gpu-metrics", "inference", "vllm"))]
    assert_modes(host, dict.fromkeys(folders, operator(site)), evidence)


@pytest.mark.item("004", "Operational script directories created (/opt/citadel/bin)")
def check_scripts(host: Host, site: Site, evidence: Evidence) -> None:
    assert_modes(host, {f"{site.root}/bin": operator(site)}, evidence)


@pytest.mark.item("004", "All directory ownership set to citadel:citadel")
@pytest.mark.item("004", "Directory permissions configured correctly")
def check_ownership(host: Host, site: Site, evidence: Evidence) -> None:
    operators = ("src", "bin", "documentation", "logs", "models")
    assert_modes(host, {f"{site.root}/{name}": operator(site) for name in operators}, evidence)
    roots = ("config", "releases", "envs", "tools")
    assert_modes(host, {f"{site.root}/{name}": ROOT for name in roots}, lambda _: None)
    evidence(
        "what is executed or obeyed (config, releases, envs, tools) is root's, so that no right leads to root"
    )


@pytest.mark.item("004", "Model storage directories accessible")
def check_models_accessible(host: Host, site: Site, evidence: Evidence) -> None:
    for user, question in ((site.user, "-w"), ("citadel-engine", "-r")):
        assert host.run(f"runuser -u {user} -- test {question} {site.models_root}").rc == 0, user
    evidence(f"{site.user} writes, citadel-engine reads")


@pytest.mark.item("004", "Log storage directories accessible")
def check_logs_accessible(host: Host, site: Site, evidence: Evidence) -> None:
    assert host.run(f"runuser -u {site.user} -- test -w {site.logs_root}").rc == 0
    evidence(f"{site.user} writes")
