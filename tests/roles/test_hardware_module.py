import json
import socket
from typing import Any

import pytest

from .role_modules import load

hardware = load("library/citadel_hardware.py")

CPUINFO = """\
processor\t: 0
model name\t: AMD Ryzen Threadripper PRO 7965WX 24-Cores
physical id\t: 0
core id\t\t: 0

processor\t: 1
model name\t: AMD Ryzen Threadripper PRO 7965WX 24-Cores
physical id\t: 0
core id\t\t: 1

processor\t: 2
model name\t: AMD Ryzen Threadripper PRO 7965WX 24-Cores
physical id\t: 0
core id\t\t: 0

processor\t: 3
model name\t: AMD Ryzen Threadripper PRO 7965WX 24-Cores
physical id\t: 0
core id\t\t: 1
"""
MOUNTS = """\
/dev/nvme1n1p2 / ext4 rw 0 0
/dev/nvme0n1 /mnt/nvme0n1 xfs rw 0 0
/dev/sda1 /mnt/archive\\040disk ext4 rw 0 0
tmpfs /mnt/nvme0n1/scratch tmpfs rw 0 0
/dev/nvme2n1 /mnt/nvme0n1/scratch xfs rw 0 0
"""
CARD = {"index": 0, "uuid": "GPU-0", "name": "NVIDIA GeForce RTX 5060 Ti", "memory_mib": 16311}
SERVER: dict[str, Any] = {
    "cpu": {"model": "AMD Ryzen Threadripper PRO 7965WX 24-Cores", "sockets": 1, "cores": 24, "threads": 48},
    "memory_gib": 251.4,
    "storage": [
        {
            "path": "/mnt/nvme0n1",
            "size_gib": 3600.0,
            "mount": "/mnt/nvme0n1",
            "device": "/dev/nvme0n1",
            "file_system": "xfs",
        }
    ],
    "gpus": [CARD, {**CARD, "index": 1}],
    "gpus_reason": "",
    "driver": {"version": "575.57.08", "open": True},
    "os": {
        "distribution": "ubuntu",
        "version": "24.04",
        "name": "Ubuntu 24.04.3 LTS",
        "kernel": "6.8.0-60-generic",
    },
}


def test_threads_of_one_core_count_once():
    cpu = hardware.parse_cpu(CPUINFO)
    assert (cpu["sockets"], cpu["cores"], cpu["threads"]) == (1, 2, 4)
    assert cpu["model"] == "AMD Ryzen Threadripper PRO 7965WX 24-Cores"


def test_without_a_topology_each_thread_is_a_core():
    cpu = hardware.parse_cpu("processor\t: 0\nmodel name\t: vCPU\n\nprocessor\t: 1\nmodel name\t: vCPU\n")
    assert (cpu["sockets"], cpu["cores"], cpu["threads"]) == (1, 2, 2)


def test_memory_in_gib():
    assert hardware.parse_memory("MemTotal:       263567616 kB\nMemFree: 1 kB\n") == 251.4


def test_the_system():
    text = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n\n'
    assert hardware.parse_os(text) == {
        "distribution": "ubuntu",
        "version": "24.04",
        "name": "Ubuntu 24.04.3 LTS",
    }


@pytest.mark.parametrize(
    ("path", "point", "device"),
    [
        ("/opt/citadel", "/", "/dev/nvme1n1p2"),
        ("/mnt/nvme0n1/models", "/mnt/nvme0n1", "/dev/nvme0n1"),
        ("/mnt/nvme0n1x", "/", "/dev/nvme1n1p2"),
        ("/mnt/archive disk/logs", "/mnt/archive disk", "/dev/sda1"),
        ("/mnt/nvme0n1/scratch/a", "/mnt/nvme0n1/scratch", "/dev/nvme2n1"),
    ],
)
def test_the_mount_that_holds_a_path(path, point, device):
    found = hardware.mount_of(path, MOUNTS)
    assert (found["mount"], found["device"]) == (point, device)


def test_a_path_that_is_not_there_yet_is_looked_for_above():
    found = hardware.observe_storage("/no/such/folder", "/dev/root / ext4 rw 0 0\n")
    assert (found["path"], found["mount"], found["device"]) == ("/no/such/folder", "/", "/dev/root")
    assert found["size_gib"] > 0


def failed(profile, facts=None, engine_build="cpu"):
    findings = hardware.compare(profile, SERVER | (facts or {}), engine_build)
    return [finding.requirement for finding in findings if not finding.met]


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"cpu": {"model": "threadripper pro 7965WX", "cores": 16}},
        {"memory_gib": 256},
        {"storage": [{"path": "/mnt/nvme0n1", "size_gib": 3500, "mounted": True}]},
        {"gpus": {"count": 2, "name": "RTX 5060 Ti", "memory_gib": 16}},
        {"driver": {"branch": 575, "open": True}},
        {"os": {"distribution": "Ubuntu", "version": "24.04"}},
    ],
)
def test_the_reference_server_meets(profile):
    assert failed(profile, engine_build="cuda") == []


@pytest.mark.parametrize(
    ("profile", "facts", "requirements"),
    [
        ({"cpu": {"model": "EPYC"}}, {}, ["CPU model"]),
        ({"cpu": {"cores": 25}}, {}, ["CPU cores"]),
        ({"memory_gib": 265}, {}, ["memory"]),
        ({"storage": [{"path": "/mnt/nvme0n1", "size_gib": 3601}]}, {}, ["storage /mnt/nvme0n1"]),
        (
            {"storage": [{"path": "/mnt/sda", "mounted": True}]},
            {"storage": [{**SERVER["storage"][0], "path": "/mnt/sda", "mount": "/"}]},
            ["mount of /mnt/sda"],
        ),
        ({"gpus": {"count": 3}}, {}, ["GPUs"]),
        ({"gpus": {"name": "H200"}}, {}, ["GPU 0 model", "GPU 1 model"]),
        ({"gpus": {"memory_gib": 24}}, {}, ["GPU 0 memory", "GPU 1 memory"]),
        ({"driver": {"branch": 580}}, {}, ["driver branch"]),
        (
            {"driver": {"branch": 575, "open": True}},
            {"driver": {}},
            ["driver branch", "driver's kernel module"],
        ),
        (
            {"driver": {"open": True}},
            {"driver": {"version": "550.1", "open": False}},
            ["driver's kernel module"],
        ),
        ({"os": {"distribution": "Debian"}}, {}, ["operating system"]),
        ({"os": {"version": "22.04"}}, {}, ["operating system"]),
        (
            {"memory_gib": 512, "cpu": {"cores": 64}, "gpus": {"count": 8}},
            {},
            ["CPU cores", "memory", "GPUs"],
        ),
    ],
)
def test_each_requirement_that_is_not_met_is_found(profile, facts, requirements):
    assert failed(profile, facts) == requirements


@pytest.mark.parametrize(("build", "requirements"), [("cuda", ["GPUs"]), ("cpu", [])])
def test_the_cuda_engine_wants_a_gpu_in_any_case(build, requirements):
    assert failed({}, {"gpus": [], "gpus_reason": "there is no nvidia-smi"}, build) == requirements


def test_a_failed_line_says_found_wanted_and_remedy():
    findings = hardware.compare({"cpu": {"cores": 64}}, SERVER, "cpu")
    (line,) = hardware.render_table(findings)
    assert line.startswith("FAIL  CPU cores")
    assert "wanted >= 64, found 24; give the machine more cores, or lower hardware_profile.cpu.cores" in line


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_services_are_reached_and_the_others_say_why(listener):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        unused = closed.getsockname()[1]
    services = [
        {"name": "sql", "host": "127.0.0.1", "port": listener},
        {"name": "vector", "host": "127.0.0.1", "port": unused},
        {"name": "metrics", "host": "no-such-host.invalid", "port": 9090},
    ]
    facts, findings = hardware.reachability(services, timeout=5)
    assert [fact["reachable"] for fact in facts] == [True, False, False]
    assert findings[0].found.endswith(" ms")
    assert "nothing listens on the port" in findings[1].found
    assert findings[2].met is False


def test_a_silent_host_is_told_from_a_refusing_one(monkeypatch):
    def silent(*_):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    assert hardware.reach("192.0.2.1", 5432, 0.5) == (False, "no answer within 0.5 s")


def test_the_report_is_the_same_whatever_the_latency():
    def report(latency):
        found = hardware.Finding("service sql", latency, "reachable", True, "start it")
        return hardware.report_text(SERVER, [], [found])

    assert report("0.3 ms") == report("7.9 ms")
    assert json.loads(report("0.3 ms"))["findings"][0]["met"] is True


def test_the_report_is_replaced_whole(tmp_path):
    path = tmp_path / "etc" / "hardware.json"
    hardware.write_report(path, "{}\n")
    hardware.write_report(path, "{1}\n")
    assert path.read_text() == "{1}\n"
    assert [file.name for file in path.parent.iterdir()] == ["hardware.json"]
