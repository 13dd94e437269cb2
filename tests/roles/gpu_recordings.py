"""Hosts as the recordings have them: what the kernel and nvidia-smi say there."""

from pathlib import Path

import yaml

from .role_modules import load

gpu_facts = load("library/citadel_gpu_facts.py")

RECORDINGS = Path(__file__).parent / "recordings"
ALL = sorted(path.name for path in RECORDINGS.iterdir() if path.is_dir())


class Machine:
    """A host as a recording has it: the kernel's files below a folder, and nvidia-smi's answers."""

    def __init__(self, name, folder):
        self.folder = RECORDINGS / name
        self.recording = yaml.safe_load((self.folder / "recording.yml").read_text())
        self.sys, self.proc = folder / "sys", folder / "proc"
        self.asked = []
        devices = self.sys / "bus/pci/devices"
        devices.mkdir(parents=True)
        for gpu in self.recording["pci"]:
            self._device(devices / gpu["address"], gpu)
        self._file(devices / "0000:01:00.1/vendor", "0x10de\n")
        self._file(devices / "0000:01:00.1/class", "0x040300\n")
        self._file(devices / "0000:00:02.0/vendor", "0x8086\n")
        self._file(devices / "0000:00:02.0/class", "0x030000\n")
        if self.recording["version"]:
            self._file(self.proc / "driver/nvidia/version", self.recording["version"])
        if self.recording.get("secure_boot"):
            variables = self.sys / "firmware/efi/efivars"
            variables.mkdir(parents=True)
            (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\x06\0\0\0\x01")
        cgroup = "0::/system.slice/system-citadel\\x2dengine.slice/citadel-engine@phi.service\n"
        self._file(self.proc / "4711/cgroup", cgroup)
        self._file(self.proc / "5762/cgroup", "0::/user.slice/user-1000.slice/session-3.scope\n")

    @staticmethod
    def _file(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _device(self, device, gpu):
        self._file(device / "vendor", "0x10de\n")
        self._file(device / "class", "0x030000\n")
        self._file(device / "numa_node", f"{gpu['numa_node']}\n")
        gone = gpu["address"] in self.recording.get("gone", [])
        (device / "config").write_bytes(b"\xff" * 64 if gone else b"\xde\x10" + b"\0" * 62)
        if gpu["driver"]:
            driver = self.sys / "bus/pci/drivers" / gpu["driver"]
            driver.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(driver)

    def ask(self, arguments):
        self.asked.append(" ".join(arguments))
        answer = self.recording["answers"][" ".join(arguments)]
        text = (self.folder / answer["file"]).read_text() if "file" in answer else answer["text"]
        return gpu_facts.Answer(answer["status"], text)

    def facts(self):
        ask = self.ask if self.recording["answers"] is not None else None
        return gpu_facts.observe(ask, self.sys, self.proc)
