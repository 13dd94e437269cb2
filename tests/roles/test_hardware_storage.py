"""Paths, mounts and the disks under them, on trees of /sys made after real ones; reading on real files."""

import os
import time

import pytest

from .hardware_machines import disk, machine

block, storage, throughput = machine("block"), machine("storage"), machine("throughput")

MOUNTS = """\
21 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
29 21 259:0 / /mnt/nvme0n1 rw,noatime - xfs /dev/nvme0n1 rw,attr2
30 21 8:1 / /mnt/archive\\040disk ro,nosuid shared:5 master:1 - ext4 /dev/sda1 ro
31 29 0:40 / /mnt/nvme0n1/scratch rw - tmpfs tmpfs rw
32 29 253:1 / /mnt/nvme0n1/scratch rw - xfs /dev/mapper/data-models rw
33 21 0:51 / /srv/models rw,relatime - nfs4 filer:/export/models rw,vers=4.2
"""


@pytest.mark.parametrize(
    ("path", "mount", "device", "file_system", "options"),
    [
        ("/opt/citadel", "/", "/dev/root", "ext4", ["relatime"]),
        ("/mnt/nvme0n1/models", "/mnt/nvme0n1", "/dev/nvme0n1", "xfs", ["noatime"]),
        ("/mnt/nvme0n1x", "/", "/dev/root", "ext4", ["relatime"]),
        ("/mnt/archive disk/logs", "/mnt/archive disk", "/dev/sda1", "ext4", ["ro", "nosuid"]),
        ("/mnt/nvme0n1/scratch/a", "/mnt/nvme0n1/scratch", "/dev/mapper/data-models", "xfs", []),
        ("/srv/models", "/srv/models", "filer:/export/models", "nfs4", ["relatime"]),
    ],
)
def test_the_mount_that_holds_a_path(path, mount, device, *, file_system, options):
    found = storage.mount_of(path, MOUNTS)
    assert (found["mount"], found["device"], found["file_system"]) == (mount, device, file_system)
    assert found["options"] == options


def test_without_any_mounts_nothing_is_known():
    assert storage.mount_of("/a", "")["device"] == "unknown"


def test_a_path_that_is_not_there_yet_is_looked_for_above(tmp_path):
    found = storage.observe("/no/such/folder", tmp_path, MOUNTS)
    assert (found["path"], found["mount"], found["disks"]) == ("/no/such/folder", "/", [])
    assert found["size_gib"] > 0
    assert storage.free_gib("/no/such/folder") > 0


@pytest.fixture
def machine_of_disks(tmp_path):
    """An NVMe with partitions, LVM on dm-crypt, an md of two, SATA, SAS, USB, virtio, and NVMe over TCP."""
    blocks = tmp_path / "sys/class/block"
    blocks.mkdir(parents=True)

    def add(name, number, place, *, size=0, slaves=(), rotational="0", model="", extra=()):
        folder = tmp_path / "sys/devices" / place / name
        folder.mkdir(parents=True)
        (folder / "dev").write_text(number)
        (folder / "size").write_text(str(size * 2 * 1024**2))
        (folder / "queue").mkdir()
        (folder / "queue/rotational").write_text(rotational)
        (folder / "slaves").mkdir()
        for slave in slaves:
            (folder / "slaves" / slave).touch()
        for file in extra:
            (folder / file).write_text("1")
        if model:
            (folder / "device").mkdir()
            (folder / "device/model").write_text(f"{model}   \n")
        (blocks / name).symlink_to(folder)
        return folder

    nvme = "pci0000:00/0000:01:00.0/nvme/nvme0"
    add("nvme0n1", "259:0", nvme, size=3726, model="Samsung SSD 990 PRO 4TB")
    add("nvme0n1p1", "259:1", f"{nvme}/nvme0n1", extra=["partition"])
    add("nvme0n1p2", "259:2", f"{nvme}/nvme0n1", extra=["partition"])
    for index in (1, 2):
        place = f"pci0000:00/0000:0{index + 1}:00.0/nvme/nvme{index}"
        add(f"nvme{index}n1", f"259:{index + 2}", place, size=3576)
    add("md0", "9:0", "virtual/block", slaves=["nvme1n1", "nvme2n1"])
    add("dm-0", "253:0", "virtual/block", slaves=["nvme0n1p1"])
    add("dm-1", "253:1", "virtual/block", slaves=["dm-0"])
    sata = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block"
    add("sda", "8:0", sata, size=7452, rotational="1", model="WDC WD80EFPX")
    add("sda1", "8:1", f"{sata}/sda", extra=["partition"])
    add("sdb", "8:16", "pci0000:00/0000:00:14.0/usb1/1-2/host6/target6:0:0/6:0:0:0/block", rotational="0")
    add("sdc", "8:32", "pci0000:00/0000:05:00.0/host1/port-1:0/end_device-1:0/block", rotational="1")
    add("vda", "254:0", "pci0000:00/0000:00:05.0/virtio2/block", rotational="1")
    fabric = add("nvme9n1", "259:9", "virtual/nvme-fabrics/ctl/nvme9")
    (fabric / "device").mkdir()
    (fabric / "device/transport").write_text("tcp\n")
    return tmp_path


@pytest.mark.parametrize(
    ("device", "number", "names", "kind"),
    [
        ("/dev/nvme0n1", "", ["nvme0n1"], "nvme"),
        ("/dev/nvme0n1p2", "", ["nvme0n1"], "nvme"),
        # /dev/root has no entry of its own: its number has.
        ("/dev/root", "259:2", ["nvme0n1"], "nvme"),
        ("/dev/mapper/data-models", "253:1", ["nvme0n1"], "nvme"),
        ("/dev/md0", "9:0", ["nvme1n1", "nvme2n1"], "nvme"),
        ("/dev/sda1", "8:1", ["sda"], "disk"),
        ("/dev/sdb", "8:16", ["sdb"], "ssd"),
        ("/dev/vda", "254:0", ["vda"], "virtual"),
        ("/dev/nvme9n1", "259:9", ["nvme9n1"], "network"),
        ("tmpfs", "0:40", [], "unknown"),
        ("overlay", "0:99", [], "unknown"),
    ],
)
def test_the_disks_under_a_device(machine_of_disks, device, number, *, names, kind):
    disks = block.disks_of(machine_of_disks, device, number)
    assert [found["name"] for found in disks] == names
    assert storage.kind_of({"disks": disks, "file_system": "xfs"}) == kind


def test_a_disk_has_size_model_and_transport(machine_of_disks):
    assert block.disk(machine_of_disks, "sda") == {
        "name": "sda",
        "model": "WDC WD80EFPX",
        "size_gib": 7452.0,
        "rotational": True,
        "transport": "sata",
    }
    transports = {name: block.disk(machine_of_disks, name)["transport"] for name in ("sdb", "sdc", "nvme9n1")}
    assert transports == {"sdb": "usb", "sdc": "sas", "nvme9n1": "nvme-fabrics"}


def test_a_name_under_dev_mapper_is_followed(machine_of_disks):
    mapper = machine_of_disks / "dev/mapper"
    mapper.mkdir(parents=True)
    (mapper.parent / "dm-1").touch()
    (mapper / "data-models").symlink_to("../dm-1")
    # A file system such as btrfs has a number that no device has.
    (found,) = block.disks_of(machine_of_disks, "/dev/mapper/data-models", "0:44")
    assert found["name"] == "nvme0n1"


@pytest.mark.parametrize(
    ("disks", "file_system", "kind"),
    [
        ([disk("nvme0n1", 1), disk("sda", 1, "sata")], "xfs", "mixed"),
        ([disk("nvme0n1", 1)], "nfs4", "network"),
        ([], "xfs", "unknown"),
    ],
)
def test_what_a_storage_is_on(disks, file_system, kind):
    assert storage.kind_of({"disks": disks, "file_system": file_system}) == kind


# --- Reading, on the disk that the tests run on. ---


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two models of 9 and 5 MiB, which count as large."""
    monkeypatch.setattr(throughput, "_SMALLEST", 1024**2)
    for name, sizes in {"big": [8, 1], "small": [5]}.items():
        folder = tmp_path / name
        folder.mkdir()
        for index, size in enumerate(sizes):
            (folder / f"part{index}").write_bytes(os.urandom(size * 1024**2))
    return tmp_path


def test_reading_is_measured_and_the_largest_folders_time_told(models):
    found = throughput.measure(models, seconds=10, most=1024**3)
    assert found["read_gib"] == round(14 / 1024, 2)
    assert found["largest_gib"] == round(9 / 1024, 2)
    assert found["mib_s"] > 0
    assert found["load_s"] == pytest.approx(9 / found["mib_s"], abs=0.1)
    assert found["how"] in ("O_DIRECT", "cache dropped first")


def test_reading_stops_at_its_bytes(models):
    assert throughput.measure(models, seconds=10, most=8 * 1024**2)["read_gib"] == round(8 / 1024, 2)


def test_without_direct_reading_the_cache_is_dropped(models, monkeypatch):
    real = os.open

    def refusing(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *more)

    monkeypatch.setattr(throughput.os, "open", refusing)
    assert throughput.measure(models, seconds=10, most=1024**3)["how"] == "cache dropped first"


@pytest.mark.parametrize("there", [True, False])
def test_where_nothing_large_stands_nothing_is_measured(tmp_path, there):
    if there:
        (tmp_path / "config.json").write_text("{}")
    found = throughput.measure(tmp_path if there else tmp_path / "none", seconds=1, most=1024**3)
    assert found["mib_s"] is None
    assert "no file of 64 MiB or more" in found["how"]


def test_a_link_to_a_large_file_is_not_read_twice(models):
    (models / "small/link").symlink_to(models / "big/part0")
    assert throughput.measure(models, seconds=10, most=1024**3)["read_gib"] == round(14 / 1024, 2)


def test_other_file_systems_below_are_left_alone(models, monkeypatch):
    real = throughput._device
    monkeypatch.setattr(throughput, "_device", lambda folder: -1 if folder.name == "big" else real(folder))
    seen = throughput._files(models, end=time.monotonic() + 10)
    assert [path.parent.name for path, _ in seen] == ["small"]


def test_looking_for_files_ends_in_time(models):
    assert len(throughput._files(models, end=0)) < 3
