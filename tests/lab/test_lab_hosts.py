"""Lab hosts for real: made, limited, killed, repaired and removed."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import BRIDGE, ONE, TWO, OwnLab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

# Works for a second, and prints how many seconds of CPU it got.
_SPIN = """
import time
end = time.monotonic() + 1
while time.monotonic() < end: pass
print(time.process_time())
"""

# Tells whether a machine answers: nothing listens there, so its kernel refuses.
_PING = """
import socket
try:
    socket.create_connection(("{}", 9), timeout=3)
except ConnectionRefusedError:
    print("refused")
"""


def test_both_hosts_run_with_a_way_in(both: OwnLab) -> None:
    for host in (ONE, TWO):
        assert both.ssh(host, "hostname").stdout.strip() == host["name"]
        assert both.ssh(host, "systemctl is-system-running").stdout.strip() == "running"
        assert both.ssh(host, "sudo -n id -u").stdout.strip() == "0"


def test_each_host_is_one_of_its_own(both: OwnLab) -> None:
    command = "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub"
    assert both.ssh(ONE, command).stdout.split() != both.ssh(TWO, command).stdout.split()
    first, second = (both.ssh(host, "cat /etc/machine-id").stdout for host in (ONE, TWO))
    assert first != second


def test_the_private_key_is_for_its_owner_alone(both: OwnLab) -> None:
    assert (both.state_dir / "ssh/id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (both.state_dir / "machines").stat().st_mode & 0o777 == 0o700


def test_up_again_changes_nothing(both: OwnLab) -> None:
    again = both("up", ONE, TWO)
    assert not again.changed
    assert again.steps == []


def test_check_mode_says_what_would_be_done_and_does_nothing(both: OwnLab) -> None:
    would = both("down", ONE, TWO, check=True)
    assert would.changed
    assert "remove citadel-test-1" in would.steps
    assert both("status", ONE, TWO).states == {"citadel-test-1": "running", "citadel-test-2": "running"}


def test_hosts_see_each_other_under_their_own_addresses(both: OwnLab) -> None:
    greeting = both.ssh(ONE, f"exec 3<>/dev/tcp/{TWO['address']}/22; echo probe >&3; cat <&3").stdout
    assert greeting.startswith("SSH-2.0")
    # sshd names who spoke out of turn. Its process may be gone before the journal learns whose it was, so
    # the search goes by name; and the line comes a moment after the greeting.
    heard = f"banner exchange: Connection from {ONE['address']}"
    journal = "sudo journalctl --identifier=sshd --identifier=sshd-session --output=cat --no-pager"
    deadline = time.monotonic() + 15
    while heard not in both.ssh(TWO, journal).stdout:
        assert time.monotonic() < deadline, f"{TWO['name']} did not hear from {ONE['address']}"


@pytest.fixture
def outside() -> Iterator[str]:
    """A machine beyond the controller that knows no way to the lab's subnet: its address."""
    setup = """
        ip netns add citadel-test
        ip link add citadel-test0 type veth peer name outside0 netns citadel-test
        ip address add 198.51.100.1/30 dev citadel-test0
        ip link set citadel-test0 up
        ip netns exec citadel-test ip address add 198.51.100.2/30 dev outside0
        ip netns exec citadel-test ip link set outside0 up
    """
    try:
        for line in setup.strip().splitlines():
            subprocess.run(line.split(), check=True)
        yield "198.51.100.2"
    finally:
        subprocess.run(["ip", "netns", "delete", "citadel-test"], check=True)


def test_hosts_reach_what_is_beyond_the_controller(both: OwnLab, outside: str) -> None:
    assert both.ssh(ONE, f"python3 -c {shlex.quote(_PING.format(outside))}").stdout.strip() == "refused"


def test_limits_bite_also_after_a_restart_from_inside(both: OwnLab) -> None:
    _assert_limits_bite(both)
    both.ssh(ONE, "sudo touch /run/before-the-restart")
    both.ssh(ONE, "sudo systemctl reboot")
    deadline = time.monotonic() + 60
    while both.ssh(ONE, "test ! -e /run/before-the-restart && systemctl is-system-running --wait").returncode:
        assert time.monotonic() < deadline, "the host did not come back"
    _assert_limits_bite(both)


def _assert_limits_bite(lab: OwnLab) -> None:
    def limited(limit: str, *command: str) -> subprocess.CompletedProcess[str]:
        words = ["sudo", "systemd-run", "--quiet", "--wait", "--pipe", f"--property={limit}", *command]
        return lab.ssh(ONE, shlex.join(words))

    assert limited("MemoryMax=50M", "python3", "-c", "bytearray(20 << 20)").returncode == 0
    assert limited("MemoryMax=50M", "python3", "-c", "bytearray(200 << 20)").returncode != 0
    fork = ("sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait")
    assert limited("TasksMax=4", *fork).returncode == 0
    assert limited("TasksMax=2", *fork).returncode != 0
    assert float(limited("CPUQuota=20%", "python3", "-c", _SPIN).stdout) < 0.5


def test_the_host_itself_is_limited(both: OwnLab) -> None:
    assert both.ssh(ONE, "python3 -c 'bytearray(500 << 20)'").returncode == 0
    assert both.ssh(ONE, "python3 -c 'bytearray(1500 << 20)'").returncode != 0


def test_what_a_killed_run_left_is_taken_up_again(both: OwnLab) -> None:
    both.ssh(ONE, "sudo touch /kept; sync")
    for pid in both.nspawn_of(ONE):
        os.kill(pid, signal.SIGKILL)
    assert both("status", ONE).states == {"citadel-test-1": "stopped"}
    again = both("up", ONE, TWO)
    assert again.steps == ["clear away what ran of citadel-test-1", "start citadel-test-1 at 10.89.14.11"]
    assert both.ssh(ONE, "ls /kept").returncode == 0


def test_a_half_made_host_is_made_anew(both: OwnLab) -> None:
    (both.root_of(ONE).parent / "record.json").unlink()
    assert both("status", ONE).states == {"citadel-test-1": "remains"}
    again = both("up", ONE)
    assert again.steps[0] == "remove the remains of citadel-test-1"
    assert again.states == {"citadel-test-1": "running"}


def test_a_host_is_not_made_into_another_one(both: OwnLab) -> None:
    refused = both("up", {**ONE, "address": "10.89.14.13"}, TWO)
    assert "address is '10.89.14.11', asked for is '10.89.14.13'" in refused.message
    assert not refused.changed
    assert both("up", ONE, TWO).steps == []


def test_a_name_that_another_lab_uses_is_refused(both: OwnLab, tmp_path: Path) -> None:
    refused = both("up", ONE, lab_host_state_dir=str(tmp_path / "another"))
    assert "citadel-test-1 runs in another lab" in refused.message
    assert not (tmp_path / "another").exists()


def test_caches_that_a_host_uses_are_not_removed(both: OwnLab) -> None:
    refused = both("purged", ONE)
    assert "citadel-test-2" in refused.message
    assert both("status", ONE, TWO).states == {"citadel-test-1": "running", "citadel-test-2": "running"}
    elsewhere = both("purged", ONE, lab_host_state_dir=str(both.state_dir / "elsewhere"))
    assert "citadel-test-2" in elsewhere.message


def test_taking_one_down_leaves_the_other_and_the_bridge(both: OwnLab) -> None:
    down = both("down", ONE)
    assert down.steps == ["remove citadel-test-1"]
    assert not both.root_of(ONE).exists()
    assert both.ssh(TWO, "systemctl is-system-running").stdout.strip() == "running"


def test_nothing_is_left_after_down(both: OwnLab, forwarding_before: str) -> None:
    # A process that is none of the lab's, though its arguments speak of a host.
    words = ["systemd-nspawn", f"--machine={ONE['name']}", f"--directory={both.root_of(ONE)}"]
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])
    try:
        down = both("down", ONE, TWO)
        assert down.states == {"citadel-test-1": "absent", "citadel-test-2": "absent"}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not both.state_dir.exists()
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    assert (
        BRIDGE
        not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    )
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding_before
    for host in (ONE, TWO):
        assert both.nspawn_of(host) == []
        assert list(Path("/sys/fs/cgroup").glob(f"**/citadel-lab/{host['name']}")) == []
        assert host["name"] not in Path("/proc/self/mounts").read_text()
        assert not any(Path("/run/systemd/nspawn").glob(f"*/{host['name']}"))
    assert both("down", ONE, TWO).steps == []


def test_down_copes_with_what_a_killed_run_left(lab: OwnLab) -> None:
    lab("down", TWO)
    lab("up", ONE)
    for pid in lab.nspawn_of(ONE):
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["nft", "delete", "table", "ip", f"lab-{BRIDGE}"], check=True)
    assert "remove citadel-test-1" in lab("down", ONE).steps
    assert not lab.state_dir.exists()
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    assert list(Path("/sys/fs/cgroup").glob(f"**/citadel-lab/{ONE['name']}")) == []
