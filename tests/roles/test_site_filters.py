"""What the nodes of a site know of each other, shaped from the inventory."""

import pytest
import yaml

from citadel_llm import config
from citadel_llm.config.gateway import Limits

from .role_modules import ROLES, load

site = load("roles/citadel/filter_plugins/citadel_site.py")

SMALL = {"name": "small", "source": {}}
HOSTVARS = {
    "node-1": {
        "ansible_host": "10.0.0.11",
        "citadel_models": [SMALL, {"name": "imp", "runtime": "transformers"}],
    },
    "node-2": {
        "ansible_host": "node-2.example.com",
        "config_node_address": "10.0.0.12",
        "citadel_api_port": "9000",
        "citadel_models": [{"name": "large"}],
    },
    "node-3": {
        "ansible_host": "192.0.2.13",
        "citadel_api_address": "fd00::13",
        "config_gateway": {"tls": {"certificate": "/c", "key": {"file": "/k"}}},
    },
}


def test_each_node_is_described_as_the_others_see_it():
    assert site.nodes(HOSTVARS, ["node-1", "node-2", "node-3"]) == [
        {"name": "node-1", "address": "10.0.0.11", "url": "http://10.0.0.11:8000", "models": ["small"]},
        {"name": "node-2", "address": "10.0.0.12", "url": "http://10.0.0.12:9000", "models": ["large"]},
        {"name": "node-3", "address": "fd00::13", "url": "https://[fd00::13]:8000", "models": []},
    ]


def test_a_host_without_an_address_is_reached_by_its_name():
    (node,) = site.nodes({"node-1": {"citadel_api_address": "127.0.0.1"}}, ["node-1"])
    assert node["address"] == "node-1"
    assert site.not_addresses([node["address"], "10.0.0.1", "10.0.0.0/8", "fd00::/8"]) == ["node-1"]


def test_peers_are_all_the_others_and_pass_the_schema():
    nodes = site.nodes(HOSTVARS, HOSTVARS)
    peers = site.peers(nodes, "node-1", "/etc/ssl/site.pem")
    assert [peer["name"] for peer in peers] == ["node-2", "node-3"]
    gateway = config.Gateway.model_validate({"peers": peers, "peer_key": {"credential": "peer-key"}})
    assert gateway.remote_models == ("large",)
    assert [str(peer.ca_file) for peer in gateway.peers] == ["/etc/ssl/site.pem"] * 2
    assert "ca_file" not in site.peers(nodes, "node-1")[0]
    assert site.others(nodes, "node-2") == ["10.0.0.11", "fd00::13"]
    assert (site.address_of(nodes, "node-2"), site.address_of(nodes, "node-9")) == ("10.0.0.12", "")


def test_the_defaults_of_other_hosts_are_those_of_the_role():
    defaults = yaml.safe_load((ROLES / "citadel/defaults/main.yml").read_text())
    assert defaults["citadel_api_port"] == site.DEFAULT_PORT
    assert defaults["citadel_api_address"] == site.DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            site.local_database("citadel", "citadel-gateway", 5432),
            "postgresql+psycopg://citadel-gateway@/citadel?host=/run/postgresql",
        ),
        (
            site.local_database("citadel", "citadel-gateway", 5433),
            "postgresql+psycopg://citadel-gateway@/citadel?host=/run/postgresql&port=5433",
        ),
        (
            site.remote_database("citadel", "g", 5432, "10.0.0.11"),
            "postgresql+psycopg://g@10.0.0.11:5432/citadel?sslmode=require&channel_binding=require",
        ),
        (
            site.remote_database("citadel", "g", 5432, "fd00::1", "/ca.pem"),
            "postgresql+psycopg://g@[fd00::1]:5432/citadel"
            "?sslmode=verify-full&sslrootcert=/ca.pem&channel_binding=require",
        ),
        (site.external_database("postgres://u@h/d"), "postgresql+psycopg://u@h/d"),
        (site.external_database("postgresql+psycopg://u@h/d"), "postgresql+psycopg://u@h/d"),
    ],
)
def test_urls_of_databases(url, expected):
    assert url == expected
    assert config.Gateway(database=url).database == expected
    assert site.is_shared_database(url)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.5", "valkey://g@10.0.0.5:6379/0"), ("fd00::1", "valkey://g@[fd00::1]:6379/0")],
)
def test_urls_of_stores_for_limits(address, expected):
    assert site.limits_store(address, "6379", "g") == expected
    assert Limits(store=expected).store == expected


@pytest.mark.parametrize("url", ["", "sqlite:////var/lib/citadel/gateway/citadel.db"])
def test_a_file_is_no_shared_database(url):
    assert not site.is_shared_database(url)


@pytest.mark.parametrize(
    ("deployed", "wanted", "said"),
    [
        ("", "postgresql+psycopg://u@h/d", ""),
        ("gateway: {port: 8000}", "", ""),
        ("gateway: {database: a}", "a", ""),
        ("gateway: {port: 8000}", "postgresql+psycopg://u@h/d", "from sqlite:///"),
        ("gateway: {database: a}", "", "from a to sqlite:///"),
    ],
)
def test_a_change_of_the_database_is_told(deployed, wanted, said):
    told = site.database_change(deployed, wanted)
    assert said in told
    assert bool(told) == bool(said)


def test_the_default_database_is_the_schemas():
    assert config.Gateway().database == site.DEFAULT_DATABASE


def test_addresses_that_the_host_does_not_have():
    assert site.not_there(["10.0.0.1", "10.0.0.2", "::", "*", "name"], ["10.0.0.1"]) == ["10.0.0.2"]
