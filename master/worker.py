"""One web worker: builds everything that its routes need."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from broker import logs, process, settings, topology
from broker.http import responses
from broker.http.router import Router
from broker.link import Link
from broker.messages import upload
from broker.server import connections
from broker.server.client_timeouts import ClientTimeouts
from broker.service.arguments import web_workers
from master.channel import ControllerClient
from master.cluster.nodes import Nodes
from master.extensions import bodies
from master.extensions.bodies import Bodies
from master.extensions.frames import Setup
from master.extensions.pool import Pool
from master.extensions.route import Extensions
from master.index.index import Index
from master.jobs.ledger import Ledger
from master.store.dispatcher import Dispatcher
from master.store.key_locks import KeyLocks
from master.store.versions import Versions
from master.store.writer import Writer
from master.web.application import Application, Handler
from master.web.flask_routes.app import create_app
from master.web.flask_routes.bridge import Bridge
from master.web.flask_routes.context import Context
from master.web.flask_routes.job_json import SHOWN_BYTES
from master.web.jobs.files import JobFiles
from master.web.jobs.routes import Launches
from master.web.keys.reads import Reads
from master.web.keys.redirects import Redirects
from master.web.keys.writes import WriteLimits, Writes

log = logs.get(__name__)

LINK_SECS = 2.0  # a worker that can't store yet had better not take requests yet


def create() -> Application:
    """A web worker's application; called once in each worker process."""
    process.die_with_parent()
    config = settings.load()
    logs.setup(config.general.log_level, "web")
    directory = Path(config.server.dir)
    timeout = config.server.put_timeout
    index = Index(directory / "index", config.server.index_map)
    versions = Versions(directory)
    origin = f"{versions.number}.{secrets.token_hex(4)}"
    network = Nodes(index, config.general.heartbeat)
    link = Link(config.broker.url, f"pulzar master web {versions.number}", topology.master)
    dispatcher = Dispatcher(link, origin, int(timeout * 1000), network.choose)
    redirects = Redirects(network, config.secret(), config.address(config.server))
    cors = config.server.cors
    controller = ControllerClient(directory / "controller.sock", origin, dispatcher.settle)
    locks = KeyLocks(directory, alone=web_workers(config) == 1)
    writer = Writer(index, network, dispatcher, locks, versions, timeout=timeout)
    reads = Reads(index, network, redirects, responses.cors_headers(cors))
    limits = WriteLimits(config.volume.inline, config.server.relay, timeout)
    writes = Writes(writer, network, redirects, limits, secret=config.secret(), cors=cors)
    job_files = JobFiles(index, redirects, SHOWN_BYTES)
    ledger = Ledger(directory / "ledger", map_size=config.jobs.ledger_map)
    launches = Launches(controller, ledger, cors)
    flask = create_app(Context(config, index, network, link, controller, time.time(), ledger, job_files))
    extensions = _extensions(config, index, directory / bodies.FOLDER / str(versions.number))
    link.on_up.append(network.connected)
    link.on_wake.append(dispatcher.work)
    link.on_down.append(dispatcher.fail_all)
    link.start()
    link.wait(LINK_SECS)
    log.info("web worker started", origin=origin)
    process.raise_open_files()
    connections.guard(config.server.port, config.server.client_timeout)
    behind = Bridge(flask.wsgi_app, config.server.threads)
    timeouts = ClientTimeouts(config.server.client_timeout, config.server.client_rate)
    router = Router(routes(reads, writes, launches, extensions))
    return Application(router, behind, dispatcher, timeouts, cors)


def _extensions(config: settings.Settings, index: Index, directory: Path) -> Extensions:
    """The route that runs extensions; `directory` is for the temporary files of this worker."""
    folder = Path(config.extensions.dir).resolve()
    setup = Setup(
        directory=str(folder),
        index_directory=str(index.directory.resolve()),
        index_map=config.server.index_map,
        master=config.address(config.server),
        listen=settings.joined(config.server.host, config.server.port),
        fetch=config.extensions.fetch,
    )
    size = config.extensions.processes or os.cpu_count() or 1
    place = bodies.empty(directory.resolve())
    # A process that was killed while it read the index holds pages of it.
    pool = Pool(setup, size, place, index.forget_dead)
    request_bodies = Bodies(place, config.extensions.max_body)
    return Extensions(folder, pool, request_bodies, config.extensions.timeout, config.server.cors)


def routes(reads: Reads, writes: Writes, launches: Launches, extensions: Extensions) -> dict[str, dict[str, Handler]]:
    """The hot routes: the handlers of each path by method."""
    return {
        "/get_key/": {"GET": reads, "HEAD": reads},
        "/add_key/": {"HEAD": reads, "PUT": writes.put},  # some clients look first whether it is there
        "/delete_key/": {"DELETE": writes.delete},
        "/get_node/": {"GET": writes.place, "PUT": writes.place},
        upload.PATH: {"POST": writes.commit},
        "/launch_job/": {"POST": launches.launch},
        "/cancel_job/": {"POST": launches.cancel},
        "/extension/": {"GET": extensions, "PUT": extensions},
    }
