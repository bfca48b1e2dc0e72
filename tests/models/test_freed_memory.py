import os
import platform
import subprocess
import sys

from lesionkeras.models import freed_memory

# A process of its own: what is set lasts as long as the process.
COUNT = """
import resource, runpy, sys
print(int(sys.argv[2] == "keep" and runpy.run_path(sys.argv[1])["keep_freed_memory"]()))
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(bytearray(64 << 20))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(word, environment=None):
    command = [sys.executable, "-c", COUNT, freed_memory.__file__, word]
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    kept, *faults = map(int, done.stdout.split())
    return kept, faults[-1]


def test_freed_memory_is_used_again():
    pages = 2 * (64 << 20) // (2 << 20)  # the fewest, where pages are as large as 2 MiB
    assert count_faults("let go")[0] == 0
    kept, faults = count_faults("keep")
    assert kept == (platform.libc_ver()[0] == "glibc")
    assert not kept or faults < pages <= count_faults("let go")[1]


def test_a_process_of_any_language_keeps_it_by_environment():
    _, faults = count_faults("let go", freed_memory.ENVIRONMENT)
    assert platform.libc_ver()[0] != "glibc" or faults < 2 * (64 << 20) // (2 << 20)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    assert freed_memory.keep_freed_memory() is False
