"""Three machines as the role `hardware` sees them, made by hand, and the package that it sees them with."""

import copy
import importlib
import itertools
import re
import sys
from types import ModuleType
from typing import Any

import yaml

from .role_modules import ROLES, ROOT, load

PACKAGE = ROLES / "hardware/module_utils"
NO_GPUS: dict[str, Any] = {"gpus": [], "links": [], "driver": {}, "reason": "there is no nvidia-smi"}


def machine(name: str) -> ModuleType:
    """Import a part of the package that Ansible carries to the host."""
    if str(PACKAGE) not in sys.path:
        sys.path.insert(0, str(PACKAGE))
    return importlib.import_module(f"citadel_machine.{name}")


def module(slot, size=32, kind="DDR5", speed=4800):
    return {
        "slot": slot,
        "size_gib": size,
        "type": kind,
        "speed": 5600,
        "configured_speed": speed,
        "manufacturer": "Samsung",
        "part": "M321R4GA3PB0-CWMXJ",
        "check_bits": True,
    }


def gpu(index, name="NVIDIA GeForce RTX 5060 Ti", memory=16311, node=0, **more):
    return {
        "index": index,
        "uuid": f"GPU-0000000{index}-0000-0000-0000-000000000000",
        "name": name,
        "memory_mib": memory,
        "compute_capability": "12.0",
        "pci_address": f"00000000:{index + 1:02X}:00.0",
        "numa_node": node,
        "pcie": {"generation_max": 5, "width_max": 8},
        "ecc": "unsupported",
        "power_limit_w": 180.0,
        "persistence": True,
        "mig": "unsupported",
    } | more


def disk(name, size, transport="nvme", *, model="Samsung SSD 990 PRO 4TB", rotational=False):
    return {
        "name": name,
        "model": model,
        "size_gib": size,
        "rotational": rotational,
        "transport": transport,
    }


def stored(path, size, disks, mount=None, *, file_system="xfs", options=("noatime",)):
    return {
        "path": path,
        "size_gib": size,
        "mount": mount or path,
        "device": f"/dev/{disks[0]['name']}" if disks else "overlay",
        "file_system": file_system,
        "options": list(options),
        "disks": disks,
    }


def service(name, kind, port, state="ready", said="", *, host="192.0.2.20"):
    return {
        "name": name,
        "kind": kind,
        "host": host,
        "port": port,
        "tls": "off",
        "state": state,
        "said": said or kind,
    }


SYSTEM_DISK = disk("nvme1n1", 931.5, model="Samsung SSD 980 PRO 1TB")
MODELS_DISK = disk("nvme0n1", 3726.0)
ARCHIVE = disk("sda", 7452.0, "sata", model="WDC WD80EFPX-68C4ZN0", rotational=True)

REFERENCE: dict[str, Any] = {
    "cpu": {
        "model": "AMD Ryzen Threadripper PRO 7965WX 24-Cores",
        "sockets": 1,
        "cores": 24,
        "threads": 48,
        "flags": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
        "virtual": "none",
        "numa_nodes": [{"index": 0, "socket": 0, "cpus": "0-47", "memory_gib": 251.4}],
    },
    "memory_gib": 251.4,
    "memory": {
        "correction": "multi-bit ECC",
        "slots": 8,
        "modules": [module(f"DIMM_{letter}1") for letter in "ABCDEFGH"],
        "firmware": "",
        "controllers": ["F19h_M10h"],
        "ecc": "on",
    },
    "storage": [
        stored("/mnt/nvme0n1", 3725.0, [MODELS_DISK]),
        stored("/mnt/nvme0n1/models", 3725.0, [MODELS_DISK], "/mnt/nvme0n1"),
        stored("/mnt/sda", 7450.0, [ARCHIVE], file_system="ext4"),
        stored("/opt/citadel", 915.0, [SYSTEM_DISK], "/", file_system="ext4", options=("relatime",)),
    ],
    "gpus": [gpu(0), gpu(1)],
    "gpu_links": [{"gpus": [0, 1], "kind": "bridge", "label": "PHB", "peer_to_peer": "GNS"}],
    "gpus_missing": [],
    "gpus_reason": "",
    "driver": {"version": "580.95.05", "open": True, "cuda": "13.0"},
    "pci": {
        "acs": {"state": "direct", "bridges": [], "reason": ""},
        "iommu": {
            "groups": 74,
            "mode": "identity",
            "kernel_arguments": ["iommu=pt"],
            "gpu_modes": ["identity"],
        },
    },
    "os": {
        "distribution": "ubuntu",
        "version": "24.04",
        "name": "Ubuntu 24.04.3 LTS",
        "kernel": "6.8.0-60-generic",
    },
    "clock": {"synchronised": True, "by": "systemd-timesyncd"},
    "swap": {"size_gib": 0.0, "swappiness": 10},
    "dns": {
        "host": "llm-1",
        "servers": ["192.0.2.53"],
        "resolved": {"llm-1": True, "metrics.example.net": True},
    },
    "services": [
        service("SQL database", "postgresql", 5432, said="PostgreSQL, which asks for a SCRAM password"),
        service("vector database", "qdrant", 6333, said="Qdrant 1.15.1", host="192.0.2.21"),
        service("metrics server", "prometheus", 9090, said="Prometheus", host="192.0.2.22"),
    ],
}
REFERENCE_PROFILE: dict[str, Any] = yaml.safe_load(
    (ROOT / "inventories/example/group_vars/all/hardware.yml").read_text()
)["hardware_profile"]
REFERENCE_NOW: dict[str, Any] = {
    "memory_available_gib": 240.1,
    "memory_errors": {"corrected": 0, "uncorrected": 0},
    "storage": {
        entry["path"]: {
            "free_gib": 2900.0,
            "read": {
                "mib_s": 6800,
                "read_gib": 4.0,
                "largest_gib": 24.6,
                "load_s": 3.7,
                "how": "O_DIRECT",
            },
        }
        for entry in REFERENCE["storage"]
    },
    "gpus": {
        "0": {
            "memory_used_mib": 4,
            "temperature_c": 38,
            "pcie": {"generation": 1, "width": 8},
            "processes": [],
        },
        "1": {
            "memory_used_mib": 12000,
            "temperature_c": 61,
            "pcie": {"generation": 5, "width": 8},
            "processes": [{"pid": 4242, "name": "python", "memory_mib": 11980}],
        },
    },
}


def hgx():
    """Two sockets, eight H100 with NVLink between all, four PCIe switches, two disks as md."""
    facts = copy.deepcopy(REFERENCE)
    disks = [disk(f"nvme{index}n1", 3576.0, model="SAMSUNG MZQL23T8HCLS-00A07") for index in range(1, 5)]
    facts |= {
        "cpu": {
            "model": "INTEL(R) XEON(R) PLATINUM 8480C",
            "sockets": 2,
            "cores": 112,
            "threads": 224,
            "flags": ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"],
            "virtual": "none",
            "numa_nodes": [
                {"index": index, "socket": index, "cpus": cpus, "memory_gib": 1007.6}
                for index, cpus in enumerate(["0-55,112-167", "56-111,168-223"])
            ],
        },
        "memory_gib": 2015.3,
        "gpus": [
            gpu(
                index,
                "NVIDIA H100 80GB HBM3",
                81559,
                index // 4,
                compute_capability="9.0",
                ecc="enabled",
                mig="disabled",
                power_limit_w=700.0,
                pcie={"generation_max": 5, "width_max": 16},
            )
            for index in range(8)
        ],
        "gpu_links": [
            {"gpus": list(pair), "kind": "nvlink", "label": "NV18", "peer_to_peer": "ok"}
            for pair in itertools.combinations(range(8), 2)
        ],
        "storage": [stored("/mnt/models", 14304.0, disks), stored("/", 1754.0, [disk("nvme0n1", 1788.5)])],
    }
    facts["memory"] = {
        **facts["memory"],
        "controllers": ["Intel_10nm Socket#0 IMC#0"],
        "slots": 32,
        "modules": [module(f"DIMM{index}", 64) for index in range(32)],
    }
    return facts


def small_lab():
    """A container on a small virtual machine, which has nothing of what was asked."""
    facts = copy.deepcopy(REFERENCE)
    vda = disk("vda", 252.0, "virtio", model="", rotational=True)
    facts |= {
        "cpu": {
            "model": "AMD EPYC",
            "sockets": 1,
            "cores": 2,
            "threads": 2,
            "flags": ["avx2", "avx512f", "avx512_bf16"],
            "virtual": "systemd-nspawn",
            "numa_nodes": [{"index": 0, "socket": 0, "cpus": "0-1", "memory_gib": 23.5}],
        },
        "memory_gib": 23.5,
        "memory": {
            "correction": "unknown",
            "slots": 0,
            "modules": [],
            "firmware": "no SMBIOS table: a container, or firmware without one",
            "controllers": [],
            "ecc": "unknown",
        },
        "storage": [
            stored(path, 251.9, [vda], "/", file_system="ext4", options=())
            for path in (
                "/mnt/nvme0n1",
                "/mnt/sda",
                "/opt/citadel",
                "/mnt/nvme0n1/models",
                "/mnt/sda/logs/llm",
            )
        ],
        "gpus": [],
        "gpu_links": [],
        "driver": {},
        "gpus_reason": "there is no nvidia-smi, so no NVIDIA driver is installed",
        "os": {
            "distribution": "debian",
            "version": "12",
            "name": "Debian GNU/Linux 12 (bookworm)",
            "kernel": "6.1.0",
        },
        "clock": {"synchronised": False, "by": "nobody"},
    }
    facts["services"] = [
        service(
            "SQL database",
            "postgresql",
            5432,
            "refused",
            "the host answers, and nothing listens on the port",
        ),
        service("vector database", "qdrant", 6333, "wrong service", "HTTP 404 at /, and it is no Qdrant"),
        service("metrics server", "prometheus", 9090, host="metrics.example.net"),
        service(
            "model registry",
            "http",
            443,
            "bad TLS",
            "the certificate does not do: certificate has expired",
            host="registry.example.net",
        ),
        service("object <store> & more", "tcp", 9000, "timed out", "no connection within 3 s"),
    ]
    return facts


# --- What is found when they are held against a profile. ---


def now_of(facts):
    """What is so at this moment on a machine."""
    reading = REFERENCE_NOW["storage"]["/mnt/sda"]
    return REFERENCE_NOW | {"storage": {entry["path"]: reading for entry in facts["storage"]}}


def findings_of(facts, profile, build="cuda", cuda="13.0"):
    """All findings on a machine, those of the GPUs from their own module."""
    check, services = load("library/citadel_gpu_check.py"), machine("services")
    finding = machine("terms").Finding
    gpus = {"gpus": facts["gpus"], "links": facts["gpu_links"], "reason": facts["gpus_reason"], "missing": []}
    found = [
        *check.check_gpus(profile.get("gpus") or {}, gpus, build, "^citadel-"),
        *check.check_driver(profile.get("driver") or {}, facts["driver"], cuda),
    ]
    answers = [(each, services.Answer(each["state"], each["said"], 0.4, 1.9)) for each in facts["services"]]
    return [
        *machine("compare").compare(profile, facts, now_of(facts)),
        *(finding(*one, part=part_of(one.requirement)) for one in found),
        *(services.finding(*answer) for answer in answers),
    ]


def part_of(requirement):
    """The part of the picture that a finding on GPUs speaks of."""
    one = re.match(r"GPU (\d+) ", requirement)
    return f"gpu:{one[1]}" if one else "driver" if requirement.startswith("driver") else "gpus"


PICTURE = ROOT / "docs/images/hardware.svg"


def reference_picture():
    """The reference server as docs/tasks/001-hardware.md shows it."""
    return machine("picture").draw("llm-1", REFERENCE, findings_of(REFERENCE, REFERENCE_PROFILE)) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(reference_picture(), encoding="utf-8")
