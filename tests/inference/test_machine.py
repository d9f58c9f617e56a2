from pathlib import Path

import pytest

from inference import cgroup, machine
from inference.machine import Memory, usable_cores, usable_memory

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               12345.
Pages active:                            500000.
Pages inactive:                          100000.
Pages speculative:                         1000.
Pages wired down:                        200000.
Pages purgeable:                            655.
"Translation faults":                 123456789.
"""
MEMINFO = "MemTotal:       8000 kB\nMemFree:        1000 kB\nMemAvailable:   6000 kB\nHugePages_Total:       0\n"
MB = 2**20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 8 MB in an empty control group; returns the folder of all groups."""
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "cgroup"


def test_this_machine():
    memory = usable_memory()
    assert memory is None or 0 < memory.available <= memory.total
    assert usable_cores() >= 1


def test_what_the_system_says(groups, tmp_path):
    assert usable_memory() == Memory(8000 * 1024, 6000 * 1024)
    (tmp_path / "meminfo").write_text(MEMINFO.replace("MemAvailable", "Other"))
    assert usable_memory() == Memory(8000 * 1024, 1000 * 1024)
    (tmp_path / "meminfo").write_text("nothing that anybody knows\n")
    assert usable_memory() is None


def test_a_container_s_limit_in_version_2(groups):
    write(groups, memory__max="max", memory__current=str(7 * MB))
    assert usable_memory().total == 8000 * 1024
    write(groups, memory__max=str(4 * MB), memory__current=str(3 * MB), memory__stat=f"anon 5\ninactive_file {MB}")
    assert usable_memory() == Memory(4 * MB, 2 * MB)
    write(groups, memory__current=str(9 * MB))
    assert usable_memory() == Memory(4 * MB, 0)


def test_the_narrowest_of_nested_groups_counts(groups, tmp_path):
    (tmp_path / "own").write_text("0::/user.slice/app.scope\n")
    write(groups / "user.slice", memory__max=str(3 * MB), memory__current="0", cpu__max="150000 100000")
    write(groups / "user.slice" / "app.scope", memory__max=str(5 * MB), memory__current=str(MB), cpu__max="max 100000")
    assert usable_memory() == Memory(3 * MB, 3 * MB)
    assert cgroup.cpu_quota() == 1.5


def test_version_1(groups, tmp_path):
    (tmp_path / "own").write_text("4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n")
    # The path is the host's, and the container sees its own group at the root.
    write(
        groups / "memory",
        memory__limit_in_bytes=str(2 * MB),
        memory__usage_in_bytes=str(MB),
        memory__stat=f"cache 7\ntotal_inactive_file {MB // 2}",
    )
    write(groups / "cpu", **{"cpu__cfs_quota_us": "400000", "cpu__cfs_period_us": "100000"})
    assert usable_memory() == Memory(2 * MB, 3 * MB // 2)
    assert cgroup.cpu_quota() == 4
    write(groups / "cpu", **{"cpu__cfs_quota_us": "-1"})
    write(groups / "memory", memory__limit_in_bytes=str(2**63 - 4096))
    assert (usable_memory().total, cgroup.cpu_quota()) == (8000 * 1024, None)


def test_a_quota_limits_the_cores(groups, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CPUS", Path("/nowhere"))
    assert usable_cores() == 8
    write(groups, cpu__max="250000 100000")
    assert usable_cores() == 2
    write(groups, cpu__max="50000 100000")
    assert usable_cores() == 1


def test_threads_of_one_core_count_once(groups, monkeypatch, tmp_path):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
    monkeypatch.setattr(machine, "CPUS", tmp_path)
    for cpu in range(8):
        write(tmp_path / f"cpu{cpu}" / "topology", thread_siblings_list=f"{cpu % 4},{cpu % 4 + 4}")
    assert usable_cores() == 2


def test_a_mac(monkeypatch, groups):
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    answers = {"sysctl": "17179869184\n", "vm_stat": VM_STAT}
    monkeypatch.setattr(machine, "_output", lambda command, *_: answers[command])
    assert usable_memory() == Memory(16 * 2**30, 16384 * (12345 + 100000 + 1000 + 655))
    answers["sysctl"] = "nonsense"
    assert usable_memory() is None


def test_a_system_that_nobody_knows(monkeypatch, groups):
    monkeypatch.setattr(machine.sys, "platform", "plan9")
    assert usable_memory() is None
