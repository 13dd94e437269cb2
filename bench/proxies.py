"""The plain proxies: told not to buffer, to keep connections to the engine, and to log nothing."""

import os
import pwd
import signal
from pathlib import Path

from bench import processes
from bench.contender import Contender, Engine, version
from bench.peers import Peers
from bench.processes import Started

NGINX = """\
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    client_body_buffer_size 1m;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    upstream engine {{
        server unix:{socket};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

HAPROXY = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    option http-keep-alive
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend clients
    bind 127.0.0.1:{port} backlog 2048
    default_backend engines
backend engines
    server engine unix@{socket}
"""


def nginx(engine: Engine, peers: Peers) -> Contender:
    """nginx, one worker."""
    program = peers.programs["nginx"]

    def start(folder: Path, port: int, core: int) -> Started:
        me = pwd.getpwuid(os.getuid()).pw_name
        # Its worker would become "nobody" and not reach the socket.
        user = f"user {me};\n" if os.getuid() == 0 else ""
        text = NGINX.format(user=user, folder=folder, files=16384, socket=engine.socket, port=port)
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        command: list[str | Path] = [
            program,
            "-c",
            folder / "nginx.conf",
            "-p",
            folder,
            "-e",
            folder / "nginx.log",
        ]
        # Not SIGKILL: it has to end its worker.
        return processes.start(
            "nginx",
            command,
            core=core,
            log=folder / "log",
            environment=peers.environment(),
            parting=signal.SIGTERM,
        )

    settings = (
        "one worker, `proxy_buffering off`, `keepalive 1024` to the engine, bodies kept in memory (1 MB), no "
        "access log; engine on a unix socket"
    )
    return Contender(
        "nginx", settings, start, lambda: version([program, "-v"], r"nginx/(\S+)", peers.environment())
    )


def haproxy(engine: Engine, peers: Peers) -> Contender:
    """HAProxy, one thread."""
    program = peers.programs["haproxy"]

    def start(folder: Path, port: int, core: int) -> Started:
        text = HAPROXY.format(socket=engine.socket, port=port)
        (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
        command: list[str | Path] = [program, "-db", "-f", folder / "haproxy.cfg"]
        return processes.start(
            "HAProxy", command, core=core, log=folder / "log", environment=peers.environment()
        )

    settings = (
        "`nbthread 1`, `http-reuse always`, `option http-no-delay`, no log, no health check; engine on a unix"
        " socket"
    )
    return Contender(
        "HAProxy", settings, start, lambda: version([program, "-v"], r"version (\S+?)-", peers.environment())
    )
