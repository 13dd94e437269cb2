from typing import Any

import pytest

from citadel_llm.placement.devices import (
    Link,
    as_shown,
    machine_of_profile,
    machine_of_report,
    machine_of_text,
)
from citadel_llm.placement.terms import GIB, MIB, PlacementError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2x RTX 5060 Ti 16GB", [("RTX 5060 Ti", 16302, (12, 0))] * 2),
        ("2 x NVIDIA GeForce RTX 5060 Ti 16 GB", [("NVIDIA GeForce RTX 5060 Ti", 16302, (12, 0))] * 2),
        ("RTX 4090 24GB", [("RTX 4090", 24453, (8, 9))]),
        ("1x L4 24GB", [("L4", 22924, (8, 9))]),
        ("16GiB", [("GPU", 16384, None)]),
        ("2*H200 143771MiB", [("H200", 143771, (9, 0))] * 2),
        ("A100 80GB, 2x Tesla T4 16GB", [("A100", 81510, (8, 0)), *[("Tesla T4", 15283, (7, 5))] * 2]),
        ("1.5x 16GB", [("1.5x", 16302, None)]),
    ],
)
def test_gpus_as_people_write_them(text: str, expected: list[tuple[str, int, Any]]) -> None:
    machine = machine_of_text(text, 64 * GIB)
    assert [(each.name, each.memory // MIB, each.compute_capability) for each in machine.devices] == expected
    assert [each.index for each in machine.devices] == list(range(len(expected)))
    assert machine.host_memory == 64 * GIB


def test_what_the_driver_shows_is_never_less_than_what_is_planned_with() -> None:
    """What `nvidia-smi` showed of cards as sold, in MiB."""
    for name, sold, shown in [
        ("RTX 5060 Ti", 16, 16311),
        ("RTX 4090", 24, 24564),
        ("L4", 24, 23034),
        ("L40S", 48, 46068),
        ("Tesla T4", 16, 15360),
        ("H100 80GB HBM3", 80, 81559),
    ]:
        planned = as_shown(name, sold * GIB) // MIB
        assert planned <= shown
        assert planned > shown * 0.99


def test_several_groups_can_be_repeated() -> None:
    assert machine_of_text(["RTX 3090 24GB", "L4 24GB"], GIB).devices[1].name == "L4"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no count, name and size"),
        ("two cards", "no count, name and size"),
        ("2x RTX 5060 Ti", "'Ti' is no unit"),
        ("2x RTX 5060 Ti 16 parsec", "'parsec' is no unit"),
        ("-1x RTX 5060 Ti 16GB", "-1 is no number of GPUs"),
        ("0x RTX 5060 Ti 16GB", "0 is no number of GPUs"),
        ("2x RTX 5060 Ti -16GB", "-16 GB is no memory"),
        ("2x RTX 5060 Ti 0GB", "0 GB is no memory"),
        ("9999999x L4 24GB", "more than 1024"),
        ("600x L4 24GB, 600x L4 24GB", "more than 1024"),
        ("L4 24GB,,L4 24GB", "no count, name and size"),
    ],
)
def test_nonsense_gets_an_example(text: str, reason: str) -> None:
    with pytest.raises(PlacementError) as error:
        machine_of_text(text, GIB)
    assert reason in str(error.value)
    assert "2x RTX 5060 Ti 16GB" in str(error.value)


def gpu(index: int, **changes: Any) -> dict[str, Any]:
    name = "NVIDIA GeForce RTX 5060 Ti"
    return {"index": index, "name": name, "memory_mib": 16311, "compute_capability": "12.0", **changes}


def report(*gpus: dict[str, Any], links: Any = (), memory: Any = 251.5) -> dict[str, Any]:
    return {"facts": {"memory_gib": memory, "gpus": list(gpus), "gpu_links": list(links)}, "findings": []}


def test_a_report() -> None:
    link = {"gpus": [1, 0], "kind": "bridge", "label": "PHB", "peer_to_peer": "ok"}
    machine = machine_of_report(report(gpu(1), gpu(0), links=[link]))
    assert [device.index for device in machine.devices] == [0, 1]
    assert machine.devices[0].memory == 16311 * MIB
    assert machine.devices[0].compute_capability == (12, 0)
    assert machine.link(1, 0) == Link((0, 1), "bridge", "PHB", "ok")
    assert machine.host_memory == int(251.5 * GIB)


def test_a_gpu_that_is_split_is_left_out_and_that_is_said() -> None:
    machine = machine_of_report(report(gpu(0, mig="enabled"), gpu(1)))
    assert [device.index for device in machine.devices] == [1]
    assert "GPU 0 is left out, for it is split by MIG" in machine.origin


def test_on_the_cpu_build_the_device_is_the_host() -> None:
    [device] = machine_of_report(report(gpu(0)), "cpu").devices
    assert (device.kind, device.memory) == ("cpu", int(251.5 * GIB))
    [device] = machine_of_profile({"memory_gib": 24}, "cpu").devices
    assert (device.kind, device.memory) == ("cpu", 24 * GIB)


@pytest.mark.parametrize(
    ("broken", "entry"),
    [
        ({}, "facts"),
        ({"facts": []}, "facts"),
        (report(memory=None), "facts.memory_gib"),
        (report(memory=-1), "facts.memory_gib"),
        (report(memory=True), "facts.memory_gib"),
        ({"facts": {"memory_gib": 1, "gpus": "two"}}, "facts.gpus"),
        (report(gpu(0, memory_mib=0)), "facts.gpus[0].memory_mib"),
        (report(gpu(0), gpu(1, memory_mib="16 GB")), "facts.gpus[1].memory_mib"),
        (report(gpu(-1)), "facts.gpus[0].index"),
        (report("a card"), "facts.gpus[0]"),  # type: ignore[arg-type]
        (report(gpu(0), links=[{"gpus": [0], "kind": "nvlink"}]), "facts.gpu_links[0]"),
        (report(gpu(0), links=[{"gpus": [0, 1], "kind": "magic"}]), "facts.gpu_links[0]"),
    ],
)
def test_a_broken_report_names_its_entry(broken: dict[str, Any], entry: str) -> None:
    with pytest.raises(PlacementError) as error:
        machine_of_report(broken)
    assert error.value.entry == entry


def test_a_profile() -> None:
    profile = {"memory_gib": 256, "gpus": {"count": 2, "name": "RTX 5060 Ti", "memory_gib": 16}}
    machine = machine_of_profile(profile)
    assert [device.memory // MIB for device in machine.devices] == [16302, 16302]
    assert machine_of_profile({"memory_gib": 8}).devices == ()


@pytest.mark.parametrize(
    ("profile", "entry"),
    [
        ({}, "hardware_profile.memory_gib"),
        ({"memory_gib": "lots"}, "hardware_profile.memory_gib"),
        ({"memory_gib": 1, "gpus": {"count": -2, "memory_gib": 16}}, "hardware_profile.gpus.count"),
        ({"memory_gib": 1, "gpus": {"count": 2, "memory_gib": -16}}, "hardware_profile.gpus.memory_gib"),
        ({"memory_gib": 1, "gpus": {"count": 2}}, "hardware_profile.gpus.memory_gib"),
        ({"memory_gib": 1, "gpus": [16]}, "hardware_profile.gpus"),
    ],
)
def test_a_broken_profile_names_its_entry(profile: dict[str, Any], entry: str) -> None:
    with pytest.raises(PlacementError) as error:
        machine_of_profile(profile)
    assert error.value.entry == entry
