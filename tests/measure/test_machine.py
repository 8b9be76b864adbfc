"""The processor's state, as the system's files tell it."""

import os

import pytest
import torch

from mvc.measure import machine

CPU = torch.device("cpu")


def test_peak_memory_sees_an_allocation():
    quiet = machine.peak_memory(lambda: None, CPU)
    busy = machine.peak_memory(lambda: torch.ones(64 * 2**20), CPU)  # 256 MiB
    assert busy.used - quiet.used > 200 * 2**20
    assert busy.reserved is None


def test_private_memory_is_what_no_other_process_has(tmp_path):
    (tmp_path / "7").mkdir()
    lines = ["Rss: 900 kB", "Shared_Clean: 500 kB", "Private_Clean: 100 kB", "Private_Dirty: 300 kB"]
    (tmp_path / "7" / "smaps_rollup").write_text("\n".join(lines))
    assert machine.private_memory(7, tmp_path) == 400 * 1024
    assert machine.private_memory(8, tmp_path) is None


def test_frequency_is_the_governors_or_else_the_processors(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\ncpu MHz\t\t: 2500.5\n")
    assert machine.frequency(tmp_path / "cpuinfo", tmp_path) == 2500.5
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq" / "scaling_cur_freq").write_text("3100000\n")
    assert machine.frequency(tmp_path / "cpuinfo", tmp_path) == 3100
    assert machine.frequency(tmp_path / "none", tmp_path / "none") is None


def test_the_nominal_frequency_is_the_systems_or_else_in_the_name(tmp_path):
    def nominal(name):
        return machine.nominal_frequency(name, tmp_path)

    assert nominal("A CPU @ 2.60GHz") == 2600
    assert nominal("A CPU @ 900MHz") == 900
    assert nominal("A CPU 5-Core") is None
    (tmp_path / "cpufreq").mkdir()
    for file, kilohertz in (("cpuinfo_max_freq", 3_500_000), ("base_frequency", 2_000_000)):
        (tmp_path / "cpufreq" / file).write_text(f"{kilohertz}\n")
        assert nominal("A CPU @ 2.60GHz") == kilohertz / 1e3


@pytest.mark.parametrize(
    ("available", "sold"),
    [(15.4, 16), (15.7, 16), (31.0, 32), (62.6, 64), (125.5, 128), (377, 384), (1007.5, 1024), (23.54, 24), (79.1, 80)],
)
def test_memory_is_stated_as_sold(available, sold):
    assert machine.whole_memory(round(available * 2**30)) == sold * 2**30
    assert machine.whole_memory(sold * 2**30) == sold * 2**30


def test_processor_has_a_name_everywhere(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU: B\n")
    assert machine.processor(tmp_path / "cpuinfo") == "A CPU: B"
    assert machine.processor(tmp_path / "none")


def test_last_level_cache_is_the_largest(tmp_path):
    assert machine.last_level_cache(tmp_path) is None
    for index, size in enumerate(("32K", "1024K", "32M")):
        folder = tmp_path / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert machine.last_level_cache(tmp_path) == 32 * 2**20


def test_processors_are_those_of_the_process_or_else_the_machines(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 4}, raising=False)
    assert machine.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.processors() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.processors() == 1


def test_what_a_system_does_not_tell_is_none(monkeypatch):
    for name in ("getloadavg", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    assert machine.load_average() is None
    assert machine.affinity() is None
    monkeypatch.setattr(os, "sysconf", lambda name: int("unknown"))
    assert machine.memory() is None
