"""Requirements against machines, and profiles that cannot be used."""

import copy

import pytest

from .hardware_machines import REFERENCE, REFERENCE_NOW, REFERENCE_PROFILE, findings_of, machine

NVME = "/mnt/nvme0n1"
compare, profiles, report = machine("compare"), machine("profile"), machine("report")


def findings(profile, change=None, now=None):
    facts = copy.deepcopy(REFERENCE)
    for path, value in (change or {}).items():
        place = facts
        *parents, last = path.split(".")
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value
    return compare.compare(profile, facts, now or REFERENCE_NOW)


def test_the_reference_server_meets_the_examples_profile():
    found = findings_of(REFERENCE, REFERENCE_PROFILE)
    assert [finding for finding in found if not finding.met] == []
    assert {finding.part for finding in found} == {
        *("cpu", "memory", f"storage:{NVME}", "storage:/mnt/sda", "system", "network", "driver"),
        *(
            "gpus",
            "gpu:0",
            "gpu:1",
            "service:SQL database",
            "service:vector database",
            "service:metrics server",
        ),
    }


@pytest.mark.parametrize(
    ("profile", "change", "requirements"),
    [
        ({"cpu": {"model": "EPYC"}}, {}, ["CPU model"]),
        ({"cpu": {"cores": 25}}, {}, ["CPU cores"]),
        ({"cpu": {"sockets": 2}}, {}, ["CPU sockets"]),
        ({"cpu": {"numa_nodes": 4}}, {}, ["CPU NUMA nodes"]),
        ({"cpu": {"flags": ["avx2", "amx_bf16"]}}, {}, ["CPU flags"]),
        ({"cpu": {"physical": True}}, {"cpu.virtual": "KVM"}, ["CPU without virtualisation"]),
        ({"memory_gib": 265}, {}, ["memory"]),
        # What firmware and kernel keep is forgiven.
        ({"memory_gib": 256}, {"memory_gib": 244.0}, []),
        ({"memory": {"type": "ddr5"}}, {}, []),
        ({"memory": {"type": "DDR4"}}, {}, ["memory type"]),
        ({"memory": {"type": "DDR5"}}, {"memory.modules": []}, ["memory type"]),
        ({"memory": {"speed": 5600}}, {}, ["memory speed"]),
        ({"memory": {"speed": 4800, "modules": 8}}, {}, []),
        ({"memory": {"modules": 12}}, {}, ["memory modules"]),
        ({"memory": {"ecc": True}}, {"memory.ecc": "claimed"}, ["memory ECC"]),
        ({"memory": {"ecc": True}}, {"memory.ecc": "unknown"}, ["memory ECC"]),
        ({"memory": {"ecc": False}}, {"memory.ecc": "off"}, []),
        ({"storage": [{"path": NVME, "size_gib": 3726}]}, {}, [f"storage {NVME}"]),
        ({"storage": [{"path": NVME, "free_gib": 2901}]}, {}, [f"storage free at {NVME}"]),
        ({"storage": [{"path": NVME, "mounted": True}]}, {"storage.0.mount": "/"}, [f"storage mount {NVME}"]),
        ({"storage": [{"path": "/mnt/sda", "kind": "nvme"}]}, {}, ["storage kind /mnt/sda"]),
        ({"storage": [{"path": "/mnt/sda", "file_systems": ["xfs"]}]}, {}, ["storage file system /mnt/sda"]),
        ({"storage": [{"path": NVME, "file_systems": ["ext4", "xfs"]}]}, {}, []),
        ({"storage": [{"path": NVME, "options": ["noatime", "discard"]}]}, {}, [f"storage options {NVME}"]),
        ({"storage": [{"path": NVME, "read_mib_s": 6000}]}, {}, []),
        ({"storage": [{"path": NVME, "read_mib_s": 7000}]}, {}, [f"storage reading {NVME}"]),
        ({"gpus": {"peer_to_peer": True}}, {}, []),
        (
            {"gpus": {"peer_to_peer": True}},
            {
                "pci.acs": {"state": "redirects", "bridges": ["0000:02:01.0"], "reason": ""},
                "pci.iommu.gpu_modes": ["DMA-FQ"],
            },
            ["GPU path: ACS", "GPU path: IOMMU"],
        ),
        (
            {"gpus": {"peer_to_peer": True}},
            {"pci.acs": {"state": "unknown", "bridges": [], "reason": "not root"}},
            ["GPU path: ACS"],
        ),
        ({"os": {"distribution": "Debian"}}, {}, ["operating system"]),
        ({"os": {"version": "22.04"}}, {}, ["operating system"]),
        ({"os": {"kernel": "6.14"}}, {}, ["operating system: kernel"]),
        ({"os": {"kernel": "5.15"}}, {}, []),
        ({"clock": {"synchronised": True}}, {"clock.synchronised": None}, ["clock"]),
        ({"clock": {"synchronised": True}}, {"clock.synchronised": False}, ["clock"]),
        ({"swap": {"most_gib": 0}}, {"swap.size_gib": 8.0}, ["swap"]),
        ({"swap": {"most_gib": 8}}, {"swap.size_gib": 8.0}, []),
        ({"swap": {"swappiness": 5}}, {"swap.size_gib": 8.0}, ["swap: vm.swappiness"]),
        # Without swap, how eagerly it would be used is no matter.
        ({"swap": {"swappiness": 5}}, {}, []),
        ({"network": {"own_name": True}}, {}, []),
        ({"network": {"names": ["packages.example.net"]}}, {}, ["name packages.example.net"]),
        (
            {"memory_gib": 512, "cpu": {"cores": 64}, "os": {"kernel": "7"}},
            {},
            ["CPU cores", "memory", "operating system: kernel"],
        ),
    ],
)
def test_each_requirement_that_is_not_met_is_found(profile, change, requirements):
    assert [finding.requirement for finding in findings(profile, change) if not finding.met] == requirements


def test_nothing_is_asked_where_the_profile_asks_for_nothing():
    assert findings({}) == []
    assert findings({"cpu": {}, "storage": [{"path": NVME}], "os": None, "swap": {}}) == []


def test_ecc_that_is_only_claimed_is_called_so():
    (found,) = findings({"memory": {"ecc": True}}, {"memory.ecc": "claimed"})
    assert (
        found.found == "claimed by the firmware (multi-bit ECC), not seen by the kernel (no EDAC controller)"
    )


def test_what_varies_is_no_part_of_what_was_found():
    profile = {"storage": [{"path": NVME, "size_gib": 1, "free_gib": 1, "read_mib_s": 1}]}
    later = copy.deepcopy(REFERENCE_NOW)
    later["storage"][NVME] |= {"free_gib": 12.5}
    later["storage"][NVME]["read"]["mib_s"] = 2345
    first, second = findings(profile), findings(profile, now=later)
    assert [report.lasting(finding) for finding in first] == [report.lasting(finding) for finding in second]
    assert "12.5 GiB free" in second[0].now


def test_a_speed_that_could_not_be_measured_is_not_met():
    now = copy.deepcopy(REFERENCE_NOW)
    now["storage"][NVME]["read"] = {"mib_s": None, "how": "no file of 64 MiB or more to read stands there"}
    (found,) = findings({"storage": [{"path": NVME, "read_mib_s": 1}]}, now=now)
    assert (found.met, found.found) == (False, "not measured: no file of 64 MiB or more to read stands there")


def test_each_remedy_for_a_storage_path_names_its_entry():
    wanted = {"path": "/mnt/sda", "size_gib": 9e9, "free_gib": 9e9, "mounted": True, "kind": "nvme"}
    wanted |= {"file_systems": ["zfs"], "options": ["dax"], "read_mib_s": 9e9}
    found = compare.compare({"storage": [wanted]}, REFERENCE, REFERENCE_NOW)
    assert len(found) == len(wanted) - 1
    assert all("the entry /mnt/sda of hardware_profile.storage" in finding.remedy for finding in found)


def test_a_line_says_found_wanted_and_remedy():
    (line,) = report.table(findings({"cpu": {"cores": 64}}))
    assert line == (
        "FAIL  CPU cores  wanted >= 64, found 24; give the machine more cores, "
        "or lower hardware_profile.cpu.cores"
    )


# --- Profiles ---


def test_a_good_profile_has_no_faults():
    assert profiles.faults(REFERENCE_PROFILE) == []
    assert profiles.faults({}) == []
    # From -e, numbers come as text.
    assert profiles.faults({"memory_gib": "256", "cpu": {"cores": "16"}, "storage": []}) == []


@pytest.mark.parametrize(
    ("profile", "fault"),
    [
        ({"memory_gib": -1}, "hardware_profile.memory_gib is -1: it must not be negative"),
        (
            {"storage": [{"path": "/a", "size_gib": "3.6TB"}]},
            "hardware_profile.storage[0].size_gib is '3.6TB': it must be a number of "
            "GiB without a unit; that is 3353",
        ),
        (
            {"memory_gib": "256 GiB"},
            "hardware_profile.memory_gib is '256 GiB': it must be a number of "
            "GiB without a unit; that is 256",
        ),
        (
            {"memory_gib": "256 parsecs"},
            "hardware_profile.memory_gib is '256 parsecs': parsecs is no unit, and none is "
            "wanted: write a number of GiB",
        ),
        (
            {"gpus": {"other_processes_mib": "1GiB"}},
            "hardware_profile.gpus.other_processes_mib is '1GiB': it must be a number of "
            "MiB without a unit; that is 1024",
        ),
        (
            {"memory_gib": "much"},
            "hardware_profile.memory_gib is 'much': it must be a number of GiB, such as 256",
        ),
        (
            {"memory_gib": True},
            "hardware_profile.memory_gib is True: it must be a number of GiB, such as 256",
        ),
        (
            {"memory_gib": float("nan")},
            "hardware_profile.memory_gib is nan: it must be a number of GiB, such as 256",
        ),
        ({"memory_gib": [256]}, "hardware_profile.memory_gib is [256]: it must be a number of GiB"),
        (
            {"cpu": {"cores": 1.5}},
            "hardware_profile.cpu.cores is 1.5: it must be a whole number, and not negative",
        ),
        (
            {"gpus": {"count": -2}},
            "hardware_profile.gpus.count is -2: it must be a whole number, and not negative",
        ),
        (
            {"cpu": {"model": "EPYC ("}},
            "hardware_profile.cpu.model is 'EPYC (', which is no regular expression",
        ),
        (
            {"gpus": {"compute_capability": "sm_90"}},
            "hardware_profile.gpus.compute_capability is 'sm_90': it must be a version such as \"8.0\"",
        ),
        (
            {"gpus": {"pcie_width": 7.5}},
            "hardware_profile.gpus.pcie_width is 7.5: it must be a whole number, and not negative",
        ),
        (
            {"os": {"kernel": "six"}},
            "hardware_profile.os.kernel is 'six': it must be a version such as \"6.8\"",
        ),
        (
            {"swap": {"swappiness": 201}},
            "hardware_profile.swap.swappiness is 201: vm.swappiness is between 0 and 200",
        ),
        (
            {"storage": [{"path": "/a", "kind": "floppy"}]},
            "hardware_profile.storage[0].kind is 'floppy': it must be one of nvme, ssd",
        ),
        (
            {"storage": [{"path": "mnt"}]},
            "hardware_profile.storage[0].path is 'mnt': it must be a path from the root",
        ),
        (
            {"storage": [{"path": "/a"}, {"path": "/a/"}]},
            "hardware_profile.storage[1].path is '/a/', as is that of storage[0]: make them one entry",
        ),
        (
            {"storage": [{"path": "/a", "size_gib": 10, "free_gib": 11}]},
            "hardware_profile.storage[0].free_gib is 11, more than its size_gib of 10: lower it",
        ),
        (
            {"storage": [{"path": "/a", "read_mib_s": 2000}]},
            "hardware_profile.storage[0].read_mib_s is wanted and nothing measures it: set hardware_",
        ),
        ([], "hardware_profile is []: it must be a mapping"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place_and_what_would_do(profile, fault):
    (found,) = profiles.faults(profile)
    assert found.startswith(fault)


def test_all_faults_are_told_at_once():
    found = profiles.faults(
        {"memory_gib": -1, "cpu": {"cores": "x"}, "storage": [{"path": "a", "size_gib": "1PB"}]}
    )
    assert len(found) == 4
    assert profiles.message(found).startswith(
        "4 values of hardware_profile cannot be used. Nothing was changed."
    )


def test_a_speed_is_wanted_only_where_it_is_measured():
    assert profiles.faults({"storage": [{"path": "/a", "read_mib_s": 2000}]}, read_seconds=5) == []
