"""Task-005: the configuration's layers, and the schema that judges them."""

import json

import pytest
from testinfra.host import Host

from checks.probe import modes, said
from checks.recorder import Evidence
from checks.site import Site


def assert_layer(host: Host, site: Site, names: tuple[str, ...], evidence: Evidence) -> None:
    """Root's files, which everybody may read and only root may write."""
    wanted = {f"{site.root}/config/{name}": "regular file root:root 644" for name in names}
    found = modes(host, wanted)
    assert found == wanted, f"found {found}"
    evidence(", ".join(names))


@pytest.mark.item("005", "Global configuration templates created")
def check_global(host: Host, site: Site, evidence: Evidence) -> None:
    assert_layer(host, site, ("global/citadel.yml", "global/logging.yml"), evidence)


@pytest.mark.item("005", "Environment-specific configurations created")
def check_environments(host: Host, site: Site, evidence: Evidence) -> None:
    names = tuple(f"environments/{name}.yml" for name in ("development", "staging", "production"))
    assert_layer(host, site, names, evidence)
    settings = json.loads(said(host, f"citadel config show --json --directory {site.root}/config"))
    assert settings["environment"] == site.environment
    evidence(f"in force: {site.environment}")


@pytest.mark.item("005", "Service-specific configurations created")
def check_services(host: Host, site: Site, evidence: Evidence) -> None:
    names = ("services/gateway.yml", "services/engine.yml", "services/models.yml", "features/features.yml")
    assert_layer(host, site, names, evidence)


@pytest.mark.item("005", "Configuration validation framework established")
def check_refusal(host: Host, site: Site, evidence: Evidence) -> None:
    folder = said(host, "mktemp --directory")
    try:
        said(host, f"cp --recursive {site.root}/config/. {folder}")
        said(host, f"echo 'gateway: {{prot: 8000}}' > {folder}/services/zz-wrong.yml")
        refused = host.run(f"citadel config validate --directory {folder}")
    finally:
        host.run(f"rm --recursive --force {folder}")
    assert refused.rc == 2, f"a misspelt setting was not refused: {refused.rc}"
    message = refused.stderr.strip().replace(f"{folder}/", "")
    assert "gateway.prot" in message, message
    evidence(f"a misspelt setting is refused: {message}")


@pytest.mark.item("005", "Configuration management tools configured")
def check_tools(host: Host, site: Site, evidence: Evidence) -> None:
    lines = said(host, f"citadel config show --directory {site.root}/config").splitlines()
    schema = json.loads(said(host, "citadel config schema"))
    assert any("gateway.yml" in line for line in lines), "show does not say where a setting is set"
    evidence(f"`citadel config show` names {len(lines)} settings and where each is set")
    evidence(f"`citadel config schema` describes {len(schema['properties'])} parts")


@pytest.mark.item("005", "Configuration setup validated")
def check_valid(host: Host, site: Site, evidence: Evidence) -> None:
    evidence(said(host, f"citadel config validate --directory {site.root}/config"))
