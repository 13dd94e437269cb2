import json

import pytest

from .gpu_recordings import Machine
from .role_modules import load

gpu_check = load("library/citadel_gpu_check.py")

LOCKED = "13.0"


@pytest.fixture
def machine(tmp_path):
    return lambda name: Machine(name, tmp_path).facts()


def findings(facts, gpus=None, driver=None, cuda="", build="cuda"):
    found = [
        *gpu_check.check_gpus(gpus or {}, facts, build, "^citadel-"),
        *gpu_check.check_driver(driver or {}, facts["driver"], cuda),
    ]
    return {finding.requirement: finding for finding in found}


REFERENCE = {
    "count": 2,
    "name": "rtx 5060 ti",
    "memory_gib": 16,
    "compute_capability": "12.0",
    "persistence": True,
    "mig": False,
    "pcie_generation": 5,
    "pcie_width": 8,
    "other_processes_mib": 100,
}


def test_the_reference_server_meets_its_profile_but_not_the_locked_cuda(machine):
    facts = machine("driver-575-two-consumer-cards")
    found = findings(facts, REFERENCE, {"branch": 575, "open": True}, LOCKED)
    assert [name for name, finding in found.items() if not finding.met] == ["driver for the engine's CUDA"]
    assert len(found) == 1 + 2 * 8 + 3


def test_every_requirement_begins_as_the_validation_wants(machine):
    facts = machine("driver-575-two-consumer-cards")
    everything = {**REFERENCE, "ecc": True, "nvlink": True, "peer_to_peer": True}
    for name in findings(facts, everything, {"branch": 1, "open": True}, LOCKED):
        assert name.startswith(("GPU", "driver"))


@pytest.mark.parametrize(
    ("name", "wanted", "requirement", "found", "remedy"),
    [
        ("no-gpu", {"count": 1}, "GPUs", "0; there is no NVIDIA GPU on the PCI bus", "lspci"),
        ("mismatch", {"count": 1}, "GPUs", "0; the driver's library", "restart the host"),
        ("nouveau", {}, "GPUs", "0; nouveau drives", "role nvidia_driver"),
        ("lost-readings", {"count": 2}, "GPUs", "1; 0000:41:00.0 answers 'GPU is lost'", "NVRM|Xid"),
        ("driver-515", {"name": "H200"}, "GPU 0 model", "NVIDIA A10G", "gpus.name"),
        ("driver-515", {"memory_gib": 25}, "GPU 0 memory", "22.5 GiB", "gpus.memory_gib"),
        ("driver-515", {"compute_capability": "8.9"}, "GPU 0 compute capability", "8.6", "gpus.compute"),
        (
            "driver-418",
            {"compute_capability": "7.0"},
            "GPU 0 compute capability",
            "unknown: ",
            "gpus.compute",
        ),
        ("driver-515", {"ecc": False}, "GPU 0 ECC", "enabled", "nvidia-smi -i 0 -e 0"),
        ("driver-418", {"ecc": True}, "GPU 0 ECC", "unsupported", "has no ECC"),
        ("driver-515", {"persistence": True}, "GPU 0 persistence mode", "disabled", "nvidia-persistenced"),
        ("driver-535-mig", {"mig": False}, "GPU 0 MIG", "enabled", "nvidia-smi -i 0 -mig 0"),
        ("driver-515", {"pcie_generation": 5}, "GPU 0 PCIe generation", "4 possible", "slot"),
        ("unreadable-fields", {"pcie_width": 16}, "GPU 0 PCIe width", "8 lanes possible", "slot"),
        (
            "driver-515",
            {"other_processes_mib": 100},
            "GPU 0 other processes",
            "python (5762) holds 1005",
            "end",
        ),
        ("driver-575-two-consumer-cards", {"nvlink": True}, "GPU NVLink", "0-1 PHB", "gpus.nvlink"),
        ("driver-575-two-consumer-cards", {"peer_to_peer": True}, "GPU peer-to-peer", "0-1 GNS", "IOMMU"),
        ("driver-590-two-sockets", {"peer_to_peer": True}, "GPU peer-to-peer", "0-2 CNS, 1-2 CNS", "ACS"),
        ("driver-515", {"nvlink": True}, "GPU NVLink", "no pair of GPUs", "gpus.nvlink"),
        ("no-driver", {"peer_to_peer": True}, "GPU peer-to-peer", "no pair of GPUs", "gpus.peer_to_peer"),
    ],
)
def test_what_is_not_met(machine, name, wanted, requirement, *, found, remedy):
    finding = findings(machine(name), wanted)[requirement]
    assert not finding.met
    assert found in finding.found
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("name", "wanted", "requirement"),
    [
        ("driver-515", {"count": 1}, "GPUs"),
        ("driver-515", {"name": "a10"}, "GPU 0 model"),
        # Sold as 24 GiB.
        ("driver-515", {"memory_gib": 24}, "GPU 0 memory"),
        ("driver-575-two-consumer-cards", {"compute_capability": "8.9"}, "GPU 0 compute capability"),
        ("driver-515", {"ecc": True}, "GPU 0 ECC"),
        ("driver-418", {"ecc": False}, "GPU 0 ECC"),
        ("driver-418", {"mig": False}, "GPU 0 MIG"),
        ("driver-535-mig", {"mig": False}, "GPU 1 MIG"),
        ("driver-535-mig", {"mig": True}, "GPU 0 MIG"),
        ("driver-418", {"persistence": False}, "GPU 0 persistence mode"),
        # It idles at generation 1 and half its lanes.
        ("driver-515", {"pcie_generation": 4}, "GPU 0 PCIe generation"),
        ("driver-515", {"pcie_width": 16}, "GPU 0 PCIe width"),
        ("driver-515", {"other_processes_mib": 1005}, "GPU 0 other processes"),
        # Citadel's own engine may hold what it holds.
        ("driver-575-two-consumer-cards", {"other_processes_mib": 0}, "GPU 0 other processes"),
        ("driver-590-hgx", {"nvlink": True}, "GPU NVLink"),
        ("driver-590-hgx", {"peer_to_peer": True}, "GPU peer-to-peer"),
    ],
)
def test_what_is_met(name, wanted, requirement, machine):
    assert findings(machine(name), wanted)[requirement].met


@pytest.mark.parametrize(
    ("state", "wanted", "build", "met"),
    [
        ("completed", {}, "cuda", True),
        ("In Progress", {}, "cuda", False),
        ("Completed with Unknown Error", {"fabric": True}, "cuda", False),
        ("In Progress", {"fabric": False}, "cuda", None),
        ("In Progress", {}, "cpu", None),
        ("", {"fabric": True}, "cuda", None),
    ],
)
def test_behind_nvswitch_the_fabric_manager_must_be_through(machine, state, wanted, *, build, met):
    facts = machine("driver-590-hgx")
    facts["gpus"][3]["fabric"] = state
    finding = findings(facts, wanted, build=build).get("GPU 3 fabric")
    assert (finding and finding.met) == met
    if met is False:
        assert finding.found == state
        assert "nvidia-fabricmanager" in finding.remedy
        assert "hardware_profile.gpus.fabric" in finding.remedy


def test_what_is_absent_is_not_checked(machine):
    facts = machine("driver-575-two-consumer-cards")
    assert list(findings(facts)) == ["GPUs"]
    assert list(findings(facts, {"nvlink": False, "peer_to_peer": False}, {"open": False})) == ["GPUs"]


@pytest.mark.parametrize(
    ("build", "wanted", "number"),
    [("cuda", {}, 1), ("cpu", {}, 0), ("cuda", {"count": 0}, 0), ("cpu", {"count": 1}, 1)],
)
def test_only_an_engine_for_gpus_wants_one_by_itself(build, wanted, number, machine):
    assert len(findings(machine("no-gpu"), wanted, build=build)) == number


@pytest.mark.parametrize(
    ("name", "wanted", "build", "remedies"),
    [
        ("no-gpu", {}, "cuda", ["lspci", "citadel_engine_build to cpu"]),
        ("no-gpu", {"count": 2}, "cuda", ["gpus.count to 0", "citadel_engine_build to cpu"]),
        ("no-gpu", {"count": 2}, "cpu", ["gpus.count to 0"]),
        ("driver-515", {"count": 2}, "cuda", ["look for the others", "gpus.count to 1"]),
    ],
)
def test_only_what_would_do_is_a_remedy(machine, name, wanted, *, build, remedies):
    said = findings(machine(name), wanted, build=build)["GPUs"].remedy
    assert all(remedy in said for remedy in remedies)
    assert ("citadel_engine_build" in said) == ("citadel_engine_build to cpu" in remedies)
    assert ("gpus.count" in said) == any("gpus.count" in remedy for remedy in remedies)


@pytest.mark.parametrize(
    ("name", "wanted", "requirement", "found", "met"),
    [
        ("driver-575-two-consumer-cards", {"branch": 575}, "driver branch", "575.57.08", True),
        ("driver-590-hgx", {"branch": 575}, "driver branch", "590.44.01", True),
        ("driver-535-mig", {"branch": 575}, "driver branch", "535.54.03", False),
        ("no-driver", {"branch": 575}, "driver branch", "none", False),
        ("driver-575-two-consumer-cards", {"open": True}, "driver's kernel module", "open", True),
        ("driver-535-mig", {"open": True}, "driver's kernel module", "closed", False),
        ("no-driver", {"open": True}, "driver's kernel module", "none", False),
        # nvidia-smi fails, and the kernel module tells its version.
        ("mismatch", {"branch": 575, "open": True}, "driver branch", "580.119.02", True),
    ],
)
def test_the_driver(machine, name, wanted, requirement, *, found, met):
    finding = findings(machine(name), driver=wanted)[requirement]
    assert (finding.found, finding.met) == (found, met)


@pytest.mark.parametrize(
    ("version", "supported", "cuda", "met"),
    [
        # What a driver itself runs, and all that is older.
        ("575.57.08", "12.9", "12.9", True),
        ("575.57.08", "12.9", "12.8", True),
        ("590.44.01", "13.1", "12.9", True),
        ("590.44.01", "13.1", "11.8", True),
        # Minor version compatibility: from 525 on every 12.x, from 580 on every 13.x.
        ("525.60.13", "12.0", "12.9", True),
        ("580.65.06", "13.0", "13.5", True),
        ("450.80.02", "11.0", "11.8", True),
        ("515.105.01", "11.7", "12.0", False),
        ("575.57.08", "12.9", "13.0", False),
        ("418.43", "10.1", "11.0", False),
        # A major version that the table does not know is run by a driver that says so.
        ("600.00", "14.0", "14.0", True),
        ("600.00", "14.0", "14.1", False),
        # No libcuda there to ask.
        ("580.65.06", "", "13.0", True),
        ("575.57.08", "", "13.0", False),
        ("", "", "13.0", False),
    ],
)
def test_which_driver_runs_which_cuda(version, supported, cuda, met):
    driver = {"version": version, "open": True, "cuda": supported} if version else {}
    (finding,) = gpu_check.check_driver({}, driver, cuda)
    assert finding.met == met
    assert finding.wanted == f"CUDA {cuda}"


def test_the_remedy_for_cuda_names_the_branch(machine):
    finding = findings(machine("driver-575-two-consumer-cards"), cuda=LOCKED)["driver for the engine's CUDA"]
    assert finding.found == "driver 575.57.08 for CUDA 12.9"
    assert "branch 580" in finding.remedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": {"memory_gib": -16.0}}, "hardware_profile.gpus.memory_gib is -16.0: it cannot be negative"),
        ({"gpus": {"count": -1}}, "hardware_profile.gpus.count is -1"),
        (
            {"gpus": {"name": "RTX ("}},
            "hardware_profile.gpus.name is 'RTX (', which is no regular expression",
        ),
        ({"gpus": {"compute_capability": "sm_90"}}, "compute_capability is 'sm_90', which is no version"),
        ({"driver": {"branch": -575}}, "hardware_profile.driver.branch is -575"),
        ({"cuda": "cu130"}, "cuda is 'cu130', which is no version"),
        ({"own_units": "["}, "own_units is '[', which is no regular expression"),
    ],
)
def test_bad_requirements_are_named(change, said):
    parameters = {"gpus": {}, "driver": {}, "cuda": "", "own_units": "^citadel-"} | change
    (fault,) = gpu_check.faults(parameters)
    assert said in fault


def test_all_bad_requirements_are_named_at_once():
    wanted = {"count": -1, "name": "(", "memory_gib": None, "pcie_width": -4}
    parameters = {"gpus": wanted, "driver": {"branch": None}, "cuda": "x", "own_units": ""}
    assert len(gpu_check.faults(parameters)) == 4


class Left(Exception):  # noqa: N818
    """The module has answered."""


class Module:
    """Stands for AnsibleModule; that Ansible casts what it is given is not proven by it."""

    def __init__(self, **parameters):
        defaults = {"gpus": {}, "driver": {}, "engine_build": "cuda", "cuda": "", "own_units": "^citadel-"}
        self.params = {**defaults, "enforce": True, **parameters}

    def exit_json(self, **answer):
        raise Left("ok", answer)

    def fail_json(self, **answer):
        raise Left("failed", answer)


def answer(**parameters):
    with pytest.raises(Left) as left:
        gpu_check.run(Module(**parameters))
    return left.value.args


def test_a_failure_names_every_requirement_that_is_not_met(machine):
    facts = machine("driver-515")
    state, said = answer(facts=facts, gpus={"count": 2, "mig": True}, driver={"branch": 575}, cuda=LOCKED)
    assert state == "failed"
    lines = said["msg"].splitlines()
    assert lines[0] == "4 of 4 requirements on the GPUs are not met:"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "GPUs",
        "GPU 0 MIG",
        "driver branch",
        "driver for the engine's CUDA",
    ]
    json.dumps(said)


def test_without_enforcing_it_only_tells(machine):
    state, said = answer(facts=machine("no-gpu"), enforce=False)
    assert state == "ok"
    assert said["changed"] is False
    assert said["met"] is False
    assert set(said["findings"][0]) == {"requirement", "found", "wanted", "met", "remedy"}


def test_an_engine_for_the_cpu_asks_for_no_cuda(machine):
    state, said = answer(facts=machine("no-gpu"), engine_build="cpu", cuda=LOCKED)
    assert (state, said["findings"], said["met"]) == ("ok", [], True)
