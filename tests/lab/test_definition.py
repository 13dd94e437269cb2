from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from citadel_lab.definition import Host, Lab, check, subnet_from
from citadel_lab.system import LabError


@pytest.fixture
def lab() -> Lab:
    return Lab(
        hosts=(Host("one", "10.89.14.11"), Host("two", "10.89.14.12")),
        suite="bookworm",
        mirror="",
        packages=("systemd",),
        memory=0,
        cpus=0,
        subnet=subnet_from("10.89.14.0/24"),
        bridge="citadel-lab1",
        state_dir=Path("/var/lib/lab"),
        cache_dir=Path("/var/cache/lab"),
        boot_timeout=60,
    )


def test_a_sound_lab_passes(lab: Lab) -> None:
    check(lab)


def test_the_bridge_has_the_first_address(lab: Lab) -> None:
    assert lab.gateway == "10.89.14.1"


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ([Host("One", "10.89.14.11")], "'One' is no host name"),
        ([Host("../etc", "10.89.14.11")], "'../etc' is no host name"),
        ([Host("-a", "10.89.14.11")], "'-a' is no host name"),
        ([Host("one", "10.89.14.300")], "which is no IPv4 address"),
        ([Host("one", "10.89.15.11")], "no host of 10.89.14.0/24"),
        ([Host("one", "10.89.14.0")], "no host of 10.89.14.0/24"),
        ([Host("one", "10.89.14.255")], "no host of 10.89.14.0/24"),
        ([Host("one", "10.89.14.1")], "the bridge's own"),
        ([Host("one", "10.89.14.11"), Host("one", "10.89.14.12")], "the name one is there more than once"),
        ([Host("one", "10.89.14.11"), Host("two", "10.89.14.11")], "the address 10.89.14.11 is there more"),
    ],
)
def test_hosts_that_cannot_be_are_refused(lab: Lab, hosts: list[Host], says: str) -> None:
    with pytest.raises(LabError, match=r"lab_host_hosts: ") as refused:
        check(replace(lab, hosts=tuple(hosts)))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda lab: replace(lab, bridge="a-bridge-with-a-long-name"), "lab_host_bridge"),
        (lambda lab: replace(lab, state_dir=Path("lab")), "lab_host_state_dir"),
        (lambda lab: replace(lab, cache_dir=Path("lab")), "lab_host_cache_dir"),
        (lambda lab: replace(lab, memory=-1), "lab_host_memory"),
        (lambda lab: replace(lab, cpus=-1), "lab_host_cpus"),
    ],
)
def test_the_variable_at_fault_is_named(lab: Lab, change: Callable[[Lab], Lab], names: str) -> None:
    with pytest.raises(LabError, match=names):
        check(change(lab))


def test_every_fault_is_told_at_once(lab: Lab) -> None:
    with pytest.raises(LabError) as refused:
        check(replace(lab, hosts=(Host("One", "nowhere"),), memory=-1))
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["10.89.14.1/24", "10.89.14.0/31", "fd00::/64", "a network"])
def test_a_subnet_without_room_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="lab_host_subnet"):
        subnet_from(text)
