"""The recordings say how each was made; that a driver prints this today, only a GPU can prove."""

import re
import signal
import subprocess
from xml.etree import ElementTree

import pytest
import yaml

from .gpu_recordings import ALL, RECORDINGS, Machine
from .role_modules import load

gpu_facts = load("library/citadel_gpu_facts.py")
kernel, smi = gpu_facts.kernel, gpu_facts.smi


@pytest.fixture
def facts(tmp_path):
    return lambda name: Machine(name, tmp_path).facts()


@pytest.mark.parametrize("name", ALL)
def test_each_recording_says_what_it_is(name):
    recording = yaml.safe_load((RECORDINGS / name / "recording.yml").read_text())
    assert recording["about"]
    assert recording["source"]
    assert recording["made"] in ("after", "words", "composed", "recorded")


@pytest.mark.parametrize("name", ALL)
def test_what_is_returned_has_the_same_shape_whatever_the_state(name, facts):
    found = facts(name)
    keys = {"gpus", "links", "missing", "pci", "driver", "secure_boot", "reason", "remedy", "unread"}
    assert set(found) == keys
    assert bool(found["gpus"]) == (not found["reason"]) == (not found["remedy"])
    assert "\n" not in found["reason"]
    for gpu in found["gpus"]:
        assert isinstance(gpu["memory_mib"], int)
        assert {key: type(gpu[key]) for key in ("index", "uuid", "name", "pci_address", "persistence")} == {
            "index": int,
            "uuid": str,
            "name": str,
            "pci_address": str,
            "persistence": bool,
        }
        assert gpu["ecc"] in ("enabled", "disabled", "unsupported")
        assert gpu["mig"] in ("enabled", "disabled", "unsupported")


@pytest.mark.parametrize(
    ("name", "driver", "gpu"),
    [
        (
            "driver-418",
            {"version": "418.43", "open": False, "cuda": "10.1"},
            {
                "index": 0,
                "memory_mib": 5912,
                "memory_used_mib": 0,
                "compute_capability": "",
                "pci_address": "0000:43:00.0",
                "numa_node": None,
                "pcie": {"generation": 1, "generation_max": 3, "width": 16, "width_max": 16},
                "ecc": "unsupported",
                "mig": "unsupported",
                "power_limit_w": 130.0,
                "persistence": False,
                "temperature_c": 40,
                "processes": [],
            },
        ),
        (
            "driver-515",
            {"version": "515.105.01", "open": False, "cuda": "11.7"},
            {
                "name": "NVIDIA A10G",
                "compute_capability": "8.6",
                "pci_address": "0000:00:1e.0",
                "pcie": {"generation": 1, "generation_max": 4, "width": 8, "width_max": 16},
                "ecc": "enabled",
                "power_limit_w": 280.0,
                "processes": [
                    {"pid": 675, "name": "/usr/lib/xorg/Xorg", "memory_mib": 22, "unit": ""},
                    {"pid": 5762, "name": "python", "memory_mib": 1005, "unit": ""},
                ],
            },
        ),
        (
            "driver-535-mig",
            {"version": "535.54.03", "open": False, "cuda": "12.2"},
            # The whole GPU's memory, not that of one of its parts.
            {"memory_mib": 81920, "mig": "enabled", "power_limit_w": 500.0, "numa_node": 0},
        ),
        (
            "driver-550-without-libcuda",
            {"version": "550.54.14", "open": False, "cuda": ""},
            {
                "power_limit_w": 190.0,
                "processes": [{"pid": 281698, "name": "", "memory_mib": 982, "unit": ""}],
            },
        ),
        (
            "driver-575-two-consumer-cards",
            {"version": "575.57.08", "open": True, "cuda": "12.9"},
            {
                "name": "NVIDIA GeForce RTX 5060 Ti",
                "memory_mib": 16311,
                "memory_used_mib": 14012,
                "compute_capability": "12.0",
                "pcie": {"generation": 1, "generation_max": 5, "width": 8, "width_max": 8},
                "persistence": True,
                "power_limit_w": 180.0,
                "fabric": "",
                "processes": [
                    {
                        "pid": 4711,
                        "name": "VLLM::EngineCore",
                        "memory_mib": 14000,
                        "unit": "citadel-engine@phi.service",
                    }
                ],
            },
        ),
        (
            "driver-590-hgx",
            {"version": "590.44.01", "open": True, "cuda": "13.1"},
            {
                "index": 0,
                "memory_mib": 143771,
                "pci_address": "0000:1b:00.0",
                "mig": "disabled",
                "ecc": "enabled",
                "fabric": "completed",
            },
        ),
        (
            "unreadable-fields",
            {"version": "575.57.08", "open": True, "cuda": "12.9"},
            {
                "memory_used_mib": None,
                "compute_capability": "",
                "pcie": {"generation": None, "generation_max": 5, "width": 8, "width_max": 8},
                "ecc": "unsupported",
                "power_limit_w": None,
                "persistence": False,
                "temperature_c": None,
                "processes": [{"pid": 99, "name": "[Not Found]", "memory_mib": None, "unit": ""}],
            },
        ),
    ],
)
def test_the_first_gpu_of_each_generation(name, driver, gpu, facts):
    found = facts(name)
    assert found["driver"] == driver
    assert {key: found["gpus"][0][key] for key in gpu} == gpu


def pairs(found):
    return {
        tuple(link["gpus"]): (link["kind"], link["label"], link["peer_to_peer"]) for link in found["links"]
    }


def test_two_consumer_cards_have_neither_nvlink_nor_peer_to_peer(facts):
    assert pairs(facts("driver-575-two-consumer-cards")) == {(0, 1): ("bridge", "PHB", "GNS")}


def test_gpus_behind_nvswitch_are_all_joined_and_network_cards_are_none_of_them(facts):
    found = facts("driver-590-hgx")
    assert [gpu["index"] for gpu in found["gpus"]] == list(range(8))
    assert [gpu["numa_node"] for gpu in found["gpus"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(found["links"]) == 28
    assert set(pairs(found).values()) == {("nvlink", "NV18", "ok")}


def test_of_two_directions_the_one_that_is_refused_counts(facts):
    assert pairs(facts("driver-590-two-sockets")) == {
        (0, 1): ("switch", "PIX", "ok"),
        (0, 2): ("sockets", "SYS", "CNS"),
        (1, 2): ("sockets", "SYS", "CNS"),
    }


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("NV1", "nvlink"),
        ("NV18", "nvlink"),
        ("PIX", "switch"),
        ("PXB", "switch"),
        ("PHB", "bridge"),
        ("NODE", "socket"),
        ("SYS", "sockets"),
        ("SOC", "sockets"),
        ("?", "sockets"),
    ],
)
def test_the_kinds_of_links(label, kind):
    assert smi.kind_of(label) == kind


@pytest.mark.parametrize("text", ["", "Legend:\n", "\tGPU0\tCPU Affinity\n", "no matrix\n"])
def test_what_is_no_matrix_tells_nothing(text):
    assert smi.parse_matrix(text) == {}


def test_one_gpu_is_asked_for_no_links(tmp_path):
    machine = Machine("driver-418", tmp_path)
    assert machine.facts()["links"] == []
    assert not [question for question in machine.asked if question.startswith("topo")]


def test_what_cannot_be_asked_is_told_and_the_rest_stays(tmp_path):
    machine = Machine("driver-575-two-consumer-cards", tmp_path)
    machine.recording["answers"]["topo -p2p r"] = {"status": 2, "text": "Invalid argument\n"}
    found = machine.facts()
    assert pairs(found) == {(0, 1): ("bridge", "PHB", "unknown")}
    assert found["unread"] == ["nvidia-smi topo -p2p r: Invalid argument"]


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("no-gpu", "no NVIDIA GPU on the PCI bus", "lspci"),
        ("not-loaded-no-gpu", "no NVIDIA GPU on the PCI bus", "lspci"),
        ("no-driver", "no NVIDIA driver is installed, with GPUs there (0000:01:00.0", "nvidia_driver"),
        ("nouveau", "nouveau drives the GPUs (0000:01:00.0, 0000:41:00.0)", "nvidia_driver"),
        ("not-loaded-nouveau", "nouveau drives the GPUs", "restart the host"),
        ("vfio", "handed to virtual machines", "release"),
        ("no-tools", "the kernel module 580.95.05 is loaded, and there is no nvidia-smi", "same version"),
        ("not-loaded", "the driver's kernel module is not loaded", "Secure Boot"),
        ("mismatch", "are of different versions (Failed to initialize NVML", "restart the host"),
        ("no-devices", "takes none of the GPUs (No devices were found)", "open kernel module"),
        ("empty-log", "takes none of the GPUs", "NVRM"),
        ("no-library", "libnvidia-ml.so is not there", "install the driver's packages again"),
        ("hang", "did not answer in time", "journalctl"),
        ("garbage", "answered, but it is not its XML: '\\x01\\x02 segfault", "nvidia-smi -q -x"),
        ("cut-off", "answered, but its XML is broken", "nvidia-smi -q -x"),
        ("silent", "failed (255) and said: nothing", "nvidia-smi"),
    ],
)
def test_why_there_is_none(name, reason, remedy, facts):
    found = facts(name)
    assert found["gpus"] == []
    assert reason in found["reason"]
    assert remedy in found["remedy"]


def test_the_reasons_are_all_different(tmp_path):
    states = ["no-gpu", "no-driver", "nouveau", "vfio", "no-tools", "not-loaded", "mismatch", "no-devices"]
    states += ["no-library", "hang", "garbage", "cut-off", "silent"]
    found = [Machine(name, tmp_path / name).facts() for name in states]
    assert len({facts["reason"] for facts in found}) == len(states)


def test_a_loaded_kernel_module_is_told_though_nvidia_smi_fails(facts):
    assert facts("mismatch")["driver"] == {"version": "580.119.02", "open": True, "cuda": ""}


def test_secure_boot_is_read_from_the_firmware(tmp_path):
    states = ("not-loaded", "no-driver")
    assert [Machine(name, tmp_path / name).facts()["secure_boot"] for name in states] == [True, False]


@pytest.mark.parametrize("name", ["lost-handle", "lost-readings"])
def test_a_lost_gpu_does_not_hide_the_other(name, facts):
    found = facts(name)
    assert [gpu["pci_address"] for gpu in found["gpus"]] == ["0000:01:00.0"]
    assert [gpu["pci_address"] for gpu in found["missing"]] == ["0000:41:00.0"]
    assert found["reason"] == ""


def test_how_a_lost_gpu_was_seen(tmp_path):
    said = {
        name: Machine(name, tmp_path / name).facts()["missing"][0]["reason"]
        for name in ("lost-handle", "lost-readings")
    }
    assert said == {
        "lost-handle": "does not answer the driver",
        "lost-readings": "answers 'GPU is lost' where its memory should stand",
    }


def test_a_gpu_that_left_the_bus_is_known_without_the_driver(facts):
    assert facts("hang")["missing"] == [
        {"pci_address": "0000:01:00.0", "reason": "does not answer the driver"},
        {"pci_address": "0000:41:00.0", "reason": "has fallen off the bus"},
    ]


def test_behind_a_lost_gpu_the_others_keep_their_indices(tmp_path):
    machine = Machine("lost-handle", tmp_path)
    answers = machine.recording["answers"]
    answers["-q -x --id=0000:01:00.0"], answers["-q -x --id=0000:41:00.0"] = (
        answers["-q -x --id=0000:41:00.0"],
        {"status": 0, "text": (machine.folder / "first.xml").read_text().replace(":01:00.0", ":41:00.0")},
    )
    found = machine.facts()
    assert [(gpu["index"], gpu["pci_address"]) for gpu in found["gpus"]] == [(1, "0000:41:00.0")]
    assert [gpu["pci_address"] for gpu in found["missing"]] == ["0000:01:00.0"]


def test_what_is_told_with_a_complaint_is_kept(facts):
    found = facts("lost-readings")
    assert found["gpus"][0]["compute_capability"] == "12.0"
    assert len(found["unread"]) == 1


def test_what_keeps_nvidia_smi_waiting_is_asked_once(tmp_path):
    machine = Machine("driver-575-two-consumer-cards", tmp_path)
    machine.recording["answers"][" ".join(gpu_facts._TABLE)] = {"status": None, "text": ""}
    found = machine.facts()
    assert machine.asked == ["-q -x", " ".join(gpu_facts._TABLE)]
    assert [gpu["index"] for gpu in found["gpus"]] == [0, 1]
    assert len(found["unread"]) == 3


def test_when_one_question_gets_no_answer_the_next_gpu_is_not_asked(tmp_path):
    machine = Machine("lost-handle", tmp_path)
    machine.recording["answers"]["-q -x --id=0000:01:00.0"] = {"status": None, "text": ""}
    found = machine.facts()
    assert machine.asked == ["-q -x", "-q -x --id=0000:01:00.0"]
    assert "fallen off the bus" in found["reason"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16311 MiB", 16311.0),
        ("16x", 16.0),
        ("-5 C", -5.0),
        ("180.00 W", 180.0),
        ("N/A", None),
        ("[N/A]", None),
        ("ERR!", None),
        ("Requested functionality has been deprecated", None),
        ("GPU is lost", None),
        ("", None),
        (None, None),
    ],
)
def test_readings(text, value):
    assert smi.number(text) == value


@pytest.mark.parametrize(
    ("state", "status", "fabric"),
    [
        ("N/A", "N/A", ""),
        ("Not Supported", "N/A", ""),
        ("", "", ""),
        ("Not Started", "Not Started", "Not Started"),
        ("In Progress", "N/A", "In Progress"),
        ("Completed", "Success", "completed"),
        ("Completed", "Unknown Error", "Completed with Unknown Error"),
    ],
)
def test_how_far_the_fabric_manager_is(state, status, fabric):
    gpu = ElementTree.Element("gpu")
    told = ElementTree.SubElement(gpu, "fabric")
    for key, text in (("state", state), ("status", status)):
        ElementTree.SubElement(told, key).text = text
    assert smi.fabric_of(gpu) == fabric


def changed(machine, change):
    """Let a recorded host's whole log be another."""
    text = (machine.folder / "query.xml").read_text()
    machine.recording["answers"]["-q -x"] = {"status": 0, "text": change(text)}
    return machine.facts()


def test_the_reason_does_not_hold_the_time(tmp_path):
    said = [
        changed(
            Machine("driver-515", tmp_path / hour),
            lambda text, hour=hour: re.sub(
                r"<timestamp>.*?</timestamp>", f"<timestamp>Mon Nov 23 {hour}:00:00 2026</timestamp>", text
            )[:400],
        )["reason"]
        for hour in ("08", "09")
    ]
    assert said[0] == said[1]
    assert "ends in the middle" in said[0]


@pytest.mark.parametrize("name", ["chrome --a=b&c", "sh -c <x", "\x1b[1m"])
def test_a_process_with_a_strange_name_hides_no_gpu(name, tmp_path):
    found = changed(Machine("driver-515", tmp_path), lambda text: text.replace(">python<", f">{name}<"))
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA A10G"]
    assert [process["memory_mib"] for process in found["gpus"][0]["processes"]] == [22, 1005]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n",
            {"version": "575.57.08", "open": True, "cuda": ""},
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n",
            {"version": "550.54.14", "open": False, "cuda": ""},
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  595.84  Release Build\n",
            {"version": "595.84", "open": True, "cuda": ""},
        ),
        ("", {}),
        ("GCC version: 13.3.0\n", {}),
    ],
)
def test_the_kernel_module(text, found):
    assert kernel.kernel_module(text) == found


def program(tmp_path, text):
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_the_tool_is_run_with_its_arguments_and_without_a_language(tmp_path):
    tool = gpu_facts.Tool(program(tmp_path, 'echo "$LC_ALL $*"; echo complaint >&2; exit 6'), 10)
    status, text = tool(["-q", "-x"])
    assert status == 6
    assert sorted(text.splitlines()) == ["C -q -x", "complaint"]


def test_a_tool_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    started, real = [], subprocess.Popen

    def start(*given, **more):
        started.append(real(*given, **more))
        return started[-1]

    monkeypatch.setattr(gpu_facts.subprocess, "Popen", start)
    tool = gpu_facts.Tool(program(tmp_path, "exec sleep 60"), 0.3)
    assert tool(["-q"]) == gpu_facts.Answer(None, "")
    # It was killed, long before its minute was over.
    assert started[0].wait(10) == -signal.SIGKILL
