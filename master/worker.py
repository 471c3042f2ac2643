"""One web worker: builds everything that its routes need."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from broker import logs, process, settings, tls, topology
from broker.http import signing
from broker.http.browsers import Browsers
from broker.http.environ import Environ
from broker.http.router import Router
from broker.link import Link, roles
from broker.messages import upload
from broker.metrics.keeper import Keeper
from broker.server import connections, stopping
from broker.server.client_timeouts import ClientTimeouts
from broker.server.networks import Networks
from broker.service.arguments import web_workers
from broker.tls.certificates import CertificateEnd
from master.channel import ControllerClient
from master.cluster.nodes import Nodes
from master.cluster.presence import Presence
from master.cluster.replicas import Replicas
from master.events.cloud_events import CloudEvents
from master.events.hub import Hub
from master.extensions import bodies
from master.extensions.bodies import Bodies
from master.extensions.frames import Caller, Setup
from master.extensions.pool import Pool
from master.extensions.route import Extensions
from master.index.index import Index
from master.jobs.ledger import Ledger
from master.metrics import figures
from master.security import restic_paths
from master.security.audit import AuditLog
from master.security.gate import Gate, open_tokens
from master.security.routes import require_rows
from master.security.sessions import Sessions
from master.security.signed_requests import SignedRequests
from master.security.tokens import of_queue
from master.store.dispatcher import Dispatcher
from master.store.key_locks import KeyLocks
from master.store.quotas import Quotas
from master.store.versions import Versions
from master.store.writer import Writer
from master.web.application import Application, Handler
from master.web.events.stream import Events
from master.web.events.waiting_reads import WaitingReads
from master.web.flask_routes.app import create_app, flask_routes, secrets_of
from master.web.flask_routes.bridge import Bridge
from master.web.flask_routes.context import Context
from master.web.flask_routes.job_json import SHOWN_BYTES
from master.web.jobs.files import JobFiles
from master.web.jobs.launchers import Launchers
from master.web.jobs.routes import Launches
from master.web.keys.archives import Archives
from master.web.keys.deleted_keys import DeletedKeys
from master.web.keys.lifetimes import Lifetimes
from master.web.keys.links import Links
from master.web.keys.listing import Listing
from master.web.keys.reads import Reads
from master.web.keys.redirects import Redirects
from master.web.keys.transfers import Transfers
from master.web.keys.writes import WriteLimits, Writes
from master.web.restic.repositories import Repositories
from master.web.ui.app import WebPage
from master.web.ui.frame.inner import Inner
from master.web.ui.keys.reader import READER, ValueReader
from master.web.ui.keys.uploads import Uploads
from master.web.ui.keys.values import Values

log = logs.get(__name__)

_SLOW_CLIENT_SECS = 600.0  # in which an extension still acts for a client that takes long to read
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
    sender = roles.of_master(config)
    declared = topology.master_role if sender.user else topology.master
    link = Link(config.broker.url, f"pulzar master web {versions.number}", declared, sender, ca=config.security.ca)
    dispatcher = Dispatcher(link, origin, int(timeout * 1000), network.choose)
    trusted = tls.trust(config.security.ca)
    redirects = Redirects(network, config.secret(), config.url(config.server), trusted, direct=config.open_reads)
    controller = ControllerClient(directory / "controller.sock", origin, dispatcher.settle)
    locks = KeyLocks(directory, alone=web_workers(config) == 1)
    quotas = dict(config.general.quotas)
    replicas = Replicas.of(config.general)
    writer = Writer(
        index,
        network,
        dispatcher,
        locks,
        versions,
        quotas=Quotas(index, quotas),
        timeout=timeout,
        replicas=replicas,
        secret=config.secret(),
    )
    shape = CloudEvents(config.url(config.server))
    hub = Hub(index, controller.wait, shape)
    reads = Reads(index, network, redirects, replicas)
    listing = Listing(index, quotas)
    limits = WriteLimits(config.volume.inline, config.server.relay, timeout)
    writes = Writes(writer, network, redirects, limits, secrets=config.secrets())
    job_files = JobFiles(index, redirects, SHOWN_BYTES)
    ledger = Ledger(directory / "ledger", map_size=config.jobs.ledger_map)
    tokens = open_tokens(config.security.tokens, config.security.queue)
    signed = SignedRequests(config.secrets(), tokens)
    sessions = Sessions(config.secrets(), config.address(config.server))
    gate = Gate(tokens, Networks(config.security.trust), signed.verify, _runs(config, ledger), sessions)
    launches = Launches(controller, ledger, gate)
    context = Context(
        config,
        index,
        network,
        link,
        controller,
        time.time(),
        ledger,
        job_files,
        CertificateEnd(config.server.cert),
        secrets_of(config),
    )
    flask = create_app(context)
    extensions = _extensions(config, index, directory / bodies.FOLDER / str(versions.number), gate)
    own_figures = Keeper(figures.LAYOUT, directory, "web", figures.PROCESS.of(link))
    link.on_up.append(network.connected)
    link.on_wake.append(dispatcher.work)
    link.on_down.append(dispatcher.fail_all)

    watching: list[asyncio.Task[None]] = []  # a task that nobody holds may be collected

    async def begin(loop: asyncio.AbstractEventLoop) -> None:
        own_figures.start()
        controller.start(loop)
        link.start(loop)
        await link.opened(LINK_SECS)
        watching.append(loop.create_task(Presence(network).run()))
        stopping.before(loop, hub.stop)
        process.collect_rarely()
        log.info("web worker started", origin=origin)

    process.raise_open_files()
    connections.guard(config.server.port, config.server.client_timeout, web_workers(config))
    behind = Bridge(flask.wsgi_app, config.server.threads)
    timeouts = ClientTimeouts(config.server.client_timeout, config.server.client_rate)
    browsers = Browsers(config.server.cors, config.names(config.server))
    archives = Archives(index, network, redirects, config.server.client_timeout)
    transfers = Transfers(index, writer, redirects, launches.start)
    deleted = DeletedKeys(writer, network, redirects, config.secret())
    restic = Repositories(index, network, reads, writes, writer, append_only=config.general.restic_append_only)
    links = Links(gate, config.secret(), config.url(config.server))
    hot = routes(
        reads,
        writes,
        listing,
        launches,
        extensions,
        archives=archives,
        transfers=transfers,
        deleted=deleted,
        links=links,
        lifetimes=Lifetimes(writer),
        restic=restic,
        events=Events(hub, gate, shape, most=config.server.listeners, secs=config.server.client_timeout),
        waits=WaitingReads(reads, index, hub, gate.admit, most=config.server.waiters),
    )
    require_rows((method, path) for path, handlers in hot.items() for method in handlers)
    require_rows(flask_routes(flask))
    audit = _audit(config)
    inner = Inner(Router(hot), behind, timeouts, gate, audit)
    reader = ValueReader(redirects, config.server.client_timeout)
    shown = Values(index, network, reader, archives, config.server.client_timeout)
    of_page = shown.routes() | Uploads(index, writes, sessions).routes()
    require_rows((method, path) for path, handlers in of_page.items() for method in handlers)
    name = config.address(config.server)
    web_page = WebPage(context, inner, sessions, gate, name=name, hot=of_page)
    web_page.flask.extensions[READER] = reader
    require_rows(flask_routes(web_page.flask))
    return Application(
        Router(hot | web_page.routes(), {restic_paths.PREFIX: restic_paths.methods}),
        behind,
        begin,
        timeouts,
        browsers=browsers,
        gate=gate,
        audit=audit,
        page_of_error=web_page.from_error,
        on_loop=inner.run_on,
    )


def _runs(config: settings.Settings, ledger: Ledger) -> Callable[[str], str | None]:
    """A function that gives the name of the token that a run acts for, from the run's own token."""
    launchers, secret = Launchers(ledger, of_queue(config.security.queue).name), config.secrets()

    def name(token: str) -> str | None:
        if found := signing.run_of(secret, token):
            return launchers.name(*found)
        if token.startswith(signing.CALLER):
            return signing.caller_of(secret, token, time.time())
        unnamed = signing.unnamed_run_of(secret, token)
        return None if unnamed is None else launchers.of_unnamed(*unnamed)

    return name


def _audit(config: settings.Settings) -> AuditLog | None:
    """The audit log; None when there is none."""
    if config.security.audit == settings.NO_AUDIT:
        return None
    return AuditLog(Path(config.server.dir), reads=config.security.audit == settings.AUDIT_OF_READS)


def _extensions(config: settings.Settings, index: Index, directory: Path, gate: Gate) -> Extensions:
    """The route that runs extensions; `directory` is for the temporary files of this worker."""
    folder = Path(config.extensions.dir).resolve()
    setup = Setup(
        directory=str(folder),
        index_directory=str(index.directory.resolve()),
        index_map=config.server.index_map,
        master=config.url(config.server),
        ca=config.security.ca,
        listen=settings.joined(config.server.host, config.server.port),
        fetch=config.extensions.fetch,
    )
    size = config.extensions.processes or os.cpu_count() or 1
    place = bodies.empty(directory.resolve())
    # A process that was killed while it read the index holds pages of it.
    pool = Pool(setup, size, place, index.forget_dead)
    request_bodies = Bodies(place, config.extensions.max_body)
    secret, secs = config.secret(), config.extensions.timeout + _SLOW_CLIENT_SECS

    def caller(environ: Environ) -> Caller:
        token = gate.caller(environ)
        if token is None:
            return Caller()
        reads = [right.name for right in token.rights.all if right.kind == "read"]
        until = min(time.time() + secs, token.ends)
        return Caller(token.name, signing.sign_caller(secret, token.name, int(until)), reads)

    return Extensions(folder, pool, request_bodies, config.extensions.timeout, caller=caller)


def routes(
    reads: Reads,
    writes: Writes,
    listing: Listing,
    launches: Launches,
    extensions: Extensions,
    *,
    archives: Archives,
    transfers: Transfers,
    deleted: DeletedKeys,
    links: Links,
    lifetimes: Lifetimes,
    restic: Repositories,
    events: Events,
    waits: WaitingReads,
) -> dict[str, dict[str, Handler]]:
    """The hot routes: the handlers of each path by method."""
    keys = deleted.beside(listing.page)
    return {
        "/get_key/": {"GET": waits, "HEAD": waits},
        "/add_key/": {"HEAD": reads, "PUT": writes.put},  # some clients look first whether it is there
        "/delete_key/": {"DELETE": writes.delete},
        "/get_node/": {"GET": writes.place, "PUT": writes.place},
        "/keys": {"GET": keys, "HEAD": keys},
        "/stats": {"GET": listing.stats, "HEAD": listing.stats},
        "/stats/": {"GET": listing.stats, "HEAD": listing.stats},
        upload.PATH: {"POST": writes.commit},
        "/sign": {"POST": links.sign},
        "/events": {"GET": events},
        "/archive/": {"GET": archives, "HEAD": archives},
        "/copy/": {"POST": transfers.copy},
        "/move/": {"POST": transfers.move},
        "/undelete/": {"POST": deleted.undelete},
        "/lifetime/": {"POST": lifetimes},
        restic_paths.PREFIX: {
            "GET": restic.read,
            "HEAD": restic.read,
            "POST": restic.write,
            "DELETE": restic.delete,
        },
        "/launch_job/": {"POST": launches.launch},
        "/launch_jobs": {"POST": launches.launch_many},
        "/cancel_job/": {"POST": launches.cancel},
        "/scheduled_jobs/": {"POST": launches.act},
        "/extension/": {"GET": extensions, "PUT": extensions},
    }
