"""nginx with its WebDAV module on a port of its own: a yardstick for files over HTTP."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import TracebackType

from ops.benchmarks.errors import RunFailed
from ops.cluster.processes import Child

START_SECS = 10
STOP_SECS = 10

# Other than Debian's defaults: one worker (as the master has on two cores), no access log, connections that stay open,
# bodies of any size. Uploads are renamed into place, so both folders are on one file system.
_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path uploads;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            root files;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


class Nginx:
    """nginx, which serves `directory`/files at `url` while the context lasts."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Nginx:
        for folder in (self.files, self.directory / "uploads"):
            folder.mkdir(parents=True, exist_ok=True)
        # Started by root, nginx would run its worker as nobody, who can't write here.
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(_CONFIG.format(user=user, port=self.port))
        command = ["nginx", "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]
        self._child = Child("nginx", command, os.environ, self.directory / "nginx.log")
        self._child.start()
        try:
            self._wait()
        except BaseException:
            self._child.stop(STOP_SECS)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop(STOP_SECS)

    def _wait(self) -> None:
        until = time.monotonic() + START_SECS
        while time.monotonic() < until and self._child.running:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RunFailed(f"nginx did not start:\n{self._child.tail(20)}")
