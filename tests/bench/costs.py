"""What a process costs, with its descendants: read from /proc."""

import time
from pathlib import Path


def cpu_ns(pid):
    """Nanoseconds of processor time that the process has used, by all its threads, those that have ended too."""
    # The clock that clock_getcpuclockid(3) would give.
    return time.clock_gettime_ns(~pid << 3 | 2)


def children(pid):
    """The process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            born = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # that thread has ended
        for child in born:
            found += children(int(child))
    return found


def cost(pid):
    """Memory (kB), threads, descriptors and processes of a process with its descendants."""
    sums = {"VmRSS": 0, "RssAnon": 0, "Threads": 0, "descriptors": 0, "processes": 0}
    for each in children(pid):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0])
        sums["descriptors"] += len(list(Path(f"/proc/{each}/fd").iterdir()))
        sums["processes"] += 1
    return sums
