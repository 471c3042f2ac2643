"""Description: How full the disks of the node are that it runs on.
Arguments: {}
Category: system
Author: Pulzar
"""

# A plain script: no class, it runs from top to bottom. `run` has what a `Job` has as `self`.

import subprocess

from jobs import run

lines = subprocess.run(["df", "-P", "-k"], stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
disks = {}
for line in lines[1:]:
    _, size, used, free, percent, mounted = line.split(None, 5)
    if int(size):
        disks[mounted] = {"kilobytes": int(size), "used": int(used), "free": int(free), "percent": int(percent[:-1])}
        print(f"{mounted}: {percent} of {int(size) >> 20} GiB")
run.output(disks)
