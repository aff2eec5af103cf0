"""What a program takes: `python -m docs.bench.child PROGRAM ARGUMENTS...`.

In: a command. Out: one line of JSON after the command's own output: wall and CPU seconds and peak memory of the command
alone. A small process of its own, because Linux counts a parent's memory into the peak of what it starts.
"""

import json
import os
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    facts = {"wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
    print(json.dumps(facts), flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
