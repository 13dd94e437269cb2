"""What a machine says of itself, on trees of /proc and /sys made after real ones.

The trees leave unproven that a kernel writes them so; the lab host's run reads a real one.
"""

import struct
import threading

import pytest

from .hardware_machines import gpu, machine

cpu, memory, smbios = machine("cpu"), machine("memory"), machine("smbios")
observe, pci, system = machine("observe"), machine("pci"), machine("system")

FLAGS = "fpu sse2 avx2 avx512f avx512_vnni avx512_bf16"


def tree(root, files):
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content)
    return root


def cpuinfo(*places, flags=FLAGS):
    """Processors as /proc/cpuinfo has them, each on its (socket, core)."""
    return "\n\n".join(
        f"processor\t: {index}\nmodel name\t: AMD Ryzen Threadripper PRO 7965WX 24-Cores\n"
        f"physical id\t: {socket}\ncore id\t\t: {core}\nflags\t\t: {flags}"
        for index, (socket, core) in enumerate(places)
    )


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        ([(0, 0), (0, 1), (0, 0), (0, 1)], (1, 2, 4)),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], (2, 4, 4)),
        ([(0, 0)], (1, 1, 1)),
    ],
)
def test_threads_of_one_core_count_once(places, counts):
    found = cpu.parse_cpuinfo(cpuinfo(*places))
    assert (found["sockets"], found["cores"], found["threads"]) == counts


def test_without_a_topology_each_thread_is_a_core():
    found = cpu.parse_cpuinfo("processor\t: 0\nmodel name\t: vCPU\n\nprocessor\t: 1\nmodel name\t: vCPU\n")
    assert (found["sockets"], found["cores"], found["threads"]) == (1, 2, 2)


def test_the_flags_are_those_that_engines_profit_from():
    assert cpu.parse_cpuinfo(cpuinfo((0, 0)))["flags"] == ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]
    arm = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n"
    assert cpu.parse_cpuinfo(arm)["flags"] == ["asimd", "bf16", "i8mm", "sve"]


@pytest.mark.parametrize(
    ("files", "flags", "inside"),
    [
        ({}, FLAGS, "none"),
        ({"run/systemd/container": "systemd-nspawn"}, FLAGS, "systemd-nspawn"),
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, f"{FLAGS} hypervisor", "QEMU"),
        ({"sys/hypervisor/type": "xen"}, f"{FLAGS} hypervisor", "xen"),
        ({}, f"{FLAGS} hypervisor", "a virtual machine"),
        # A physical machine has a vendor, too.
        ({"sys/class/dmi/id/sys_vendor": "Supermicro"}, FLAGS, "none"),
    ],
)
def test_what_the_machine_is_inside_of(tmp_path, files, flags, inside):
    tree(tmp_path, files | {"proc/cpuinfo": cpuinfo((0, 0), flags=flags)})
    found = cpu.observe(tmp_path)
    assert found["virtual"] == inside
    assert "hypervisor" not in found


def test_numa_nodes_with_their_sockets_cpus_and_memory(tmp_path):
    node = "sys/devices/system/node/node"
    tree(
        tmp_path,
        {
            f"{node}0/cpulist": "0-55,112-167\n",
            f"{node}0/meminfo": "Node 0 MemTotal:       1056561152 kB\nNode 0 MemFree: 1 kB\n",
            f"{node}1/cpulist": "56-111,168-223\n",
            f"{node}1/meminfo": "Node 1 MemTotal:       1056964608 kB\n",
            # Memory without CPUs (CXL).
            f"{node}10/cpulist": "\n",
            f"{node}10/meminfo": "Node 10 MemTotal:        268435456 kB\n",
            "sys/devices/system/node/possible": "0-1",
            "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0",
            "sys/devices/system/cpu/cpu56/topology/physical_package_id": "1",
        },
    )
    assert cpu.numa_nodes(tmp_path) == [
        {"index": 0, "socket": 0, "cpus": "0-55,112-167", "memory_gib": 1007.6},
        {"index": 1, "socket": 1, "cpus": "56-111,168-223", "memory_gib": 1008.0},
        {"index": 10, "socket": 0, "cpus": "", "memory_gib": 256.0},
    ]


# --- Memory. The table is put together after DSP0134, sections 7.17 and 7.18; the values of a populated
# slot are those of a published `dmidecode -t memory` of a server with DDR5, without its serial numbers.


def entry(kind, body, *texts):
    strings = b"".join(text.encode() + b"\0" for text in texts) or b"\0"
    return struct.pack("<BBH", kind, len(body) + 4, 0) + body + strings + b"\0"


def array(correction=6, use=3):
    return entry(16, struct.pack("<BBBIHH", 3, use, correction, 0x80000000, 0xFFFE, 24))


def slot(
    name="DIMM_P0_A0",
    *,
    size=0x7FFF,
    extended=32768,
    kind=0x22,
    speed=5600,
    configured=4800,
    total=80,
    data=64,
):
    body = struct.pack("<HHHHHBBBBBHH", 0x24, 0xFFFE, total, data, size, 9, 0, 1, 2, kind, 0x2080, speed)
    body += struct.pack("<BBBBBIH", 3, 0, 0, 4, 2, extended, configured)
    return entry(17, body, name, "BANK 0", "Samsung", "M321R4GA3PB0-CWMXJ   ")


def end():
    return entry(127, b"")


def test_modules_as_the_firmware_tells_them():
    table = array() + slot() + slot("DIMM_P0_B0", size=0) + end()
    assert smbios.memory(table) == {
        "correction": "multi-bit ECC",
        "slots": 2,
        "modules": [
            {
                "slot": "DIMM_P0_A0",
                "size_gib": 32.0,
                "type": "DDR5",
                "speed": 5600,
                "configured_speed": 4800,
                "manufacturer": "Samsung",
                "part": "M321R4GA3PB0-CWMXJ",
                "check_bits": True,
            }
        ],
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": 16384}, {"size_gib": 16.0}),
        # The highest bit: KiB.
        ({"size": 0x8000 | 0x4000}, {"size_gib": 0.0}),
        ({"kind": 26, "speed": 3200, "configured": 2933}, {"type": "DDR4", "configured_speed": 2933}),
        ({"kind": 2}, {"type": "unknown"}),
        ({"configured": 0}, {"configured_speed": None}),
        ({"total": 64}, {"check_bits": False}),
        ({"total": 0xFFFF}, {"check_bits": False}),
    ],
)
def test_modules_of_other_kinds(fields, expected):
    (found,) = smbios.memory(array() + slot(**fields))["modules"]
    assert found | expected == found


@pytest.mark.parametrize(
    ("table", "correction", "slots"),
    [
        (b"", "unknown", 0),
        (b"\x11", "unknown", 0),
        (array(3), "none", 0),
        (array(6) + array(5), "mixed", 0),
        # A flash chip's array is no memory.
        (array(3, use=5) + array(6), "multi-bit ECC", 0),
        # Old tables are shorter: what they do not hold is unknown, and nothing breaks.
        (array() + entry(17, struct.pack("<HHHHH", 0, 0, 72, 64, 4096), "A1"), "multi-bit ECC", 1),
        # Cut off within an entry.
        ((array() + slot())[:-40], "multi-bit ECC", 0),
        # What stands behind the end is not read.
        (array() + end() + slot(), "multi-bit ECC", 0),
    ],
)
def test_tables_that_are_old_broken_or_odd(table, correction, slots):
    found = smbios.memory(table)
    assert (found["correction"], found["slots"]) == (correction, slots)


MC = "sys/devices/system/edac/mc/mc"


@pytest.mark.parametrize(
    ("table", "edac", "ecc"),
    [
        (array(6), {f"{MC}0/mc_name": "F19h_M10h", f"{MC}0/dimm0/dimm_edac_mode": "S4ECD4ED"}, "on"),
        (array(6), {f"{MC}0/mc_name": "amd64", f"{MC}0/csrow0/edac_mode": "None"}, "off"),
        (array(6), {f"{MC}0/mc_name": "igen6_edac"}, "on"),
        (array(6), {}, "claimed"),
        (array(3), {}, "off"),
        (array(4), {}, "off"),
        (None, {}, "unknown"),
        # The kernel's word is worth more than the firmware's silence.
        (None, {f"{MC}0/mc_name": "skx_edac", f"{MC}0/dimm3/dimm_edac_mode": "SECDED"}, "on"),
    ],
)
def test_whether_errors_are_really_corrected(tmp_path, table, edac, ecc):
    tree(tmp_path, edac | ({"sys/firmware/dmi/tables/DMI": table} if table else {}))
    found = memory.observe(tmp_path)
    assert found["ecc"] == ecc
    assert ("no SMBIOS table" in found["firmware"]) == (table is None)


def test_errors_since_the_start_are_counted(tmp_path):
    tree(
        tmp_path,
        {f"{MC}0/ce_count": "2", f"{MC}0/ue_count": "0", f"{MC}1/ce_count": "5", f"{MC}1/ue_count": "1"},
    )
    assert memory.errors(tmp_path) == {"corrected": 7, "uncorrected": 1}


def test_memory_in_gib(tmp_path):
    tree(tmp_path, {"proc/meminfo": "MemTotal:       263567616 kB\nMemAvailable:   104857600 kB\n"})
    assert (memory.total_gib(tmp_path), memory.available_gib(tmp_path)) == (251.4, 100.0)


# --- The way between GPUs. ---


def config(*capabilities, size=4096):
    """A PCI configuration space whose extended capabilities are these (id, the bytes after)."""
    space, offset = bytearray(size), 0x100
    for index, (identity, content) in enumerate(capabilities):
        following = offset + 0x40 if index + 1 < len(capabilities) else 0
        space[offset : offset + 4] = struct.pack("<I", identity | 1 << 16 | following << 20)
        space[offset + 4 : offset + 4 + len(content)] = content
        offset += 0x40
    return bytes(space)


def acs(control):
    return (0x000D, struct.pack("<HH", 0x5F, control))


AER = (0x0001, b"\0" * 8)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (config(AER, acs(0x1D)), True),
        (config(acs(0x04)), True),
        # Source validation and upstream forwarding alone do not stand in the way.
        (config(AER, acs(0x11)), False),
        (config(acs(0)), False),
        (config(AER), False),
        # All that others than root may read; a space without extended capabilities says nothing of ACS.
        (config(acs(0x1D))[:64], None),
    ],
)
def test_whether_a_bridge_redirects(tmp_path, space, expected):
    assert pci.redirects(tree(tmp_path, {"config": space}) / "config") is expected


def test_a_chain_that_goes_in_circles_ends(tmp_path):
    space = bytearray(config(AER))
    space[0x100:0x104] = struct.pack("<I", 0x0001 | 1 << 16 | 0x100 << 20)
    assert pci.redirects(tree(tmp_path, {"config": bytes(space)}) / "config") is False


def bus(root, spaces, groups=()):
    """Two GPUs behind a switch: root port, the switch's upper port, and a lower port for each GPU."""
    above = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    places = {
        "0000:00:01.0": "sys/devices/pci0000:00/0000:00:01.0",
        "0000:01:00.0": above,
        "0000:02:00.0": f"{above}/0000:02:00.0",
        "0000:02:01.0": f"{above}/0000:02:01.0",
        "0000:03:00.0": f"{above}/0000:02:00.0/0000:03:00.0",
        "0000:04:00.0": f"{above}/0000:02:01.0/0000:04:00.0",
    }
    devices = root / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    for address, place in places.items():
        tree(root, {f"{place}/config": spaces.get(address, config(AER))})
        (devices / address).symlink_to(root / place)
    for number, (address, mode) in enumerate(groups):
        group = root / f"sys/kernel/iommu_groups/{number}"
        tree(root, {f"sys/kernel/iommu_groups/{number}/type": mode})
        (root / places[address] / "iommu_group").symlink_to(group)
    return root


ADDRESSES = ["00000000:03:00.0", "0000:04:00.0"]


@pytest.mark.parametrize(
    ("spaces", "state", "bridges"),
    [
        ({}, "direct", []),
        ({"0000:02:01.0": config(acs(0x1D))}, "redirects", ["0000:02:01.0"]),
        (
            {"0000:00:01.0": config(acs(0x1F)), "0000:02:00.0": config(acs(4))},
            "redirects",
            ["0000:00:01.0", "0000:02:00.0"],
        ),
        ({"0000:02:00.0": config()[:64]}, "unknown", []),
        # One that redirects is enough to know.
        ({"0000:02:00.0": config()[:64], "0000:02:01.0": config(acs(4))}, "redirects", ["0000:02:01.0"]),
    ],
)
def test_acs_on_the_way_between_gpus(tmp_path, spaces, state, bridges):
    found = pci.acs(bus(tmp_path, spaces), ADDRESSES)
    assert (found["state"], found["bridges"]) == (state, bridges)
    assert ("could not be read" in found["reason"]) == (state == "unknown")


def test_without_gpus_there_is_no_way_between_them(tmp_path):
    assert pci.acs(tmp_path, [])["state"] == "none"


def test_the_iommu_and_what_it_does_to_gpus(tmp_path):
    bus(tmp_path, {}, [("0000:03:00.0", "identity"), ("0000:04:00.0", "DMA-FQ")])
    tree(
        tmp_path,
        {"proc/cmdline": "quiet iommu=pt pcie_acs_override=downstream root=/dev/sda1\n"},
    )
    assert pci.iommu(tmp_path) == {
        "groups": 2,
        "mode": "DMA-FQ, identity",
        "kernel_arguments": ["iommu=pt", "pcie_acs_override=downstream"],
    }
    assert pci.gpu_modes(tmp_path, ADDRESSES[:1]) == ["identity"]
    assert pci.iommu(tmp_path / "elsewhere")["mode"] == "off"


# --- The system. ---


def test_the_system(tmp_path):
    tree(
        tmp_path,
        {
            "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n\n',
            "proc/sys/kernel/osrelease": "6.8.0-60-generic\n",
        },
    )
    assert system.observe(tmp_path) == {
        "distribution": "ubuntu",
        "version": "24.04",
        "name": "Ubuntu 24.04.3 LTS",
        "kernel": "6.8.0-60-generic",
    }


def told(timedatectl, *active):
    """The answers of timedatectl and of systemctl, which calls these units active."""

    def ask(words):
        if words[0] == "timedatectl":
            return timedatectl
        return f"ActiveState={'active' if words[-1] in active else 'inactive'}\n"

    return ask


@pytest.mark.parametrize(
    ("ask", "files", "expected"),
    [
        (told("NTPSynchronized=yes\n", "systemd-timesyncd.service"), {}, (True, "systemd-timesyncd")),
        (told("NTPSynchronized=no\n", "chrony.service"), {}, (False, "chrony")),
        (told("NTPSynchronized=no\n"), {}, (False, "nobody")),
        (told("NTPSynchronized=yes\n"), {"run/systemd/container": "lxc"}, (True, "set by the host outside")),
        # Without timedatectl, systemd-timesyncd's own mark.
        (
            told("", "systemd-timesyncd.service"),
            {"run/systemd/timesync/synchronized": ""},
            (True, "systemd-timesyncd"),
        ),
        (told(""), {}, (None, "nobody")),
    ],
)
def test_the_clock_and_who_sets_it(tmp_path, ask, files, expected):
    found = system.clock(tree(tmp_path, files), ask)
    assert (found["synchronised"], found["by"]) == expected


def test_a_command_that_is_not_there_or_fails_says_nothing():
    assert system.ask_host(["no-such-command"]) == ""
    assert system.ask_host(["false"]) == ""
    assert system.ask_host(["uname", "-s"]) == "Linux\n"


def test_swap_without_compressed_memory(tmp_path):
    head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    lines = "/dev/zram0 partition 4194304 0 100\n/swap.img file 8388604 12 -2\n"
    tree(tmp_path, {"proc/swaps": head + lines, "proc/sys/vm/swappiness": "60\n"})
    assert system.swap(tmp_path) == {"size_gib": 8.0, "swappiness": 60}
    tree(tmp_path, {"proc/swaps": head})
    assert system.swap(tmp_path)["size_gib"] == 0.0


def test_name_servers_and_names(tmp_path):
    tree(
        tmp_path,
        {"etc/resolv.conf": "# nameserver 9.9\nnameserver 127.0.0.53\nnameserver 2001:db8::1\nsearch x\n"},
    )
    found = observe.dns(tmp_path, ["localhost", "192.0.2.20", "no-such-name.invalid"])
    assert found["servers"] == ["127.0.0.53", "2001:db8::1"]
    # An address needs no resolving.
    assert found["resolved"] == {
        found["host"]: found["resolved"][found["host"]],
        "localhost": True,
        "no-such-name.invalid": False,
    }


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch):
    asked = threading.Event()

    def hang(name, *_, **__):
        # Had it been waited for, the slow one would be known, too.
        if name == "slow":
            asked.wait(30)
        return [object()]

    monkeypatch.setattr(system.socket, "getaddrinfo", hang)
    found = system.resolvable(["slow", "fast"], 1)
    asked.set()
    assert found == [False, True]


def test_what_varies_of_a_gpu_is_kept_apart():
    pcie = {"generation": 1, "generation_max": 5, "width": 8, "width_max": 16}
    given = gpu(0, pcie=pcie, memory_used_mib=12, temperature_c=41, processes=[{"pid": 1}])
    lasting, passing = observe.split_gpus([given])
    assert lasting == [gpu(0, pcie={"generation_max": 5, "width_max": 16})]
    assert passing["0"]["temperature_c"] == 41
    assert passing["0"]["pcie"] == {"generation": 1, "width": 8}
    assert given["pcie"] == pcie
