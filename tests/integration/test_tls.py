"""TLS: master and nodes with certificates of a private authority, that are renewed while clients go on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

import pulzar
from broker import topology
from broker.errors import SettingsError
from broker.link import Link
from jobs.client import Client
from jobs.errors import StoreError
from ops import certificates
from ops.cluster import Cluster, Rabbit
from ops.cluster.installation import Installation
from ops.cluster.network import AMQP, CONSOLE, DISTRIBUTION, EPMD, free_base
from tests.support import ROOT, Clusters, clean_environment, unique, wait_for

LARGE = 3_000_000
SCRIPT = """
from jobs import Job


class Copy(Job):
    def execute(self):
        assert self.data_path.read_bytes() == self.fetch(self.data_key)
        self.store(self.data_path, self.arguments["target"])
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    certificates.make(directory, ["127.0.0.1", "localhost"], 90)
    return directory


def settings(authority: Path, *sections: str) -> dict[str, str]:
    made = {"PULZAR_SECURITY_CA": str(authority / "ca.pem")}
    for section in sections:
        made[f"PULZAR_{section}_CERT"] = str(authority / "127.0.0.1.pem")
        made[f"PULZAR_{section}_KEY"] = str(authority / "127.0.0.1.key")
    return made


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters, authority: Path) -> Cluster:
    return make_shared_cluster(nodes=2, env=settings(authority, "SERVER", "VOLUME"))


@pytest.fixture
def session(authority: Path) -> Any:
    with trusting(str(authority / "ca.pem")) as session:
        yield session


def trusting(ca: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win
    session.verify = ca
    return session


def served(cluster_port: int, authority: Path) -> str:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", cluster_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return str((connection.getpeercert() or {})["serialNumber"])


def test_every_address_is_https_and_values_go_there_and_back(cluster: Cluster, session: requests.Session) -> None:
    assert cluster.master_url.startswith("https://")
    for size in (20, LARGE):
        key, value = unique(), os.urandom(size)
        # When a value is stored, a large one at a node
        where = session.get(f"{cluster.master_url}/get_node/{key}").json()["data"]["node"]
        assert where.startswith("https://")
        target = where if size == LARGE else f"{cluster.master_url}/add_key/{key}"
        stored = session.put(target, data=value)
        assert stored.status_code == 201, stored.text
        assert stored.json()["data"]["url"].startswith("https://")
        # Then it is there, by the master and by its node
        found = session.get(f"{cluster.master_url}/get_key/{key}")
        assert found.content == value
        assert all(urlsplit(step.headers["Location"]).scheme == "https" for step in found.history)
        assert session.get(stored.json()["data"]["url"]).content == value
    assert {
        node["url"].split(":")[0] for node in session.get(f"{cluster.master_url}/admin/network").json()["data"]
    } == {"https"}
    # And a body that the master passes on, and an archive that it reads from nodes
    key, value = unique(), os.urandom(LARGE)
    passed_on = session.put(f"{cluster.master_url}/add_key/{key}", data=iter([value]))
    assert passed_on.status_code == 201, passed_on.text
    archive = session.get(f"{cluster.master_url}/archive/{key}")
    assert archive.status_code == 200, archive.text
    assert value in archive.content


def test_curl_follows_to_nodes_with_the_authority_alone(cluster: Cluster, authority: Path, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(value := os.urandom(LARGE))
    url = f"{cluster.master_url}/add_key/{(key := unique())}"

    def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["curl", "-sS", "-L", *arguments], capture_output=True, timeout=60)

    refused = curl("-T", str(tmp_path / "value"), url)
    assert refused.returncode == 60, refused
    stored = curl("--cacert", str(authority / "ca.pem"), "-T", str(tmp_path / "value"), url)
    assert json.loads(stored.stdout)["status"] == "ok", stored
    read = curl("--cacert", str(authority / "ca.pem"), f"{cluster.master_url}/get_key/{key}")
    assert read.stdout == value


def test_the_command_line_and_the_python_client_follow_to_nodes(
    cluster: Cluster, authority: Path, tmp_path: Path
) -> None:
    ca, key = str(authority / "ca.pem"), unique()
    # Given a client that knows the authority
    with pulzar.Client(cluster.master_url, ca=ca) as client:
        for value in (b"small", os.urandom(LARGE)):
            # When it stores a value, from memory, from a file and as a stream
            (tmp_path / "value").write_bytes(value)
            for source in (value, tmp_path / "value", iter([value])):
                client.put(key, source, overwrite=True)
                # Then it reads it
                assert client.get(key) == value
    # And the command line does, told by the environment or by its file
    config = tmp_path / "config"
    config.write_text(f"[secure]\nurl = {cluster.master_url}\nca = {ca}\n")
    config.chmod(0o600)
    places: list[tuple[list[str], dict[str, str]]] = [
        ([], {"PULZAR_URL": cluster.master_url, "PULZAR_SECURITY_CA": ca}),
        (["--config", str(config), "--cluster", "secure"], {}),
    ]
    for number, (options, variables) in enumerate(places):
        stored = command_line([*options, "put", "-f", str(tmp_path / "value"), key], variables)
        assert stored.returncode == 0, stored.stderr
        back = tmp_path / f"back-{number}"
        read = command_line([*options, "get", key, str(back)], variables)
        assert read.returncode == 0, read.stderr
        assert back.read_bytes() == (tmp_path / "value").read_bytes()


def command_line(arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pulzar", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment() | variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_another_authority_is_not_trusted(cluster: Cluster, tmp_path: Path) -> None:
    certificates.make(tmp_path, ["other"], 1)
    with pytest.raises(StoreError, match="certificate verify failed"):
        Client(cluster.master_url, patience=0.5, ca=str(tmp_path / "ca.pem")).fetch("a/key")
    with pytest.raises(pulzar.Unavailable, match="certificate is not trusted"):
        pulzar.Client(cluster.master_url, patience=0.5, ca=str(tmp_path / "ca.pem")).get("a/key")
    other = {"PULZAR_URL": cluster.master_url, "PULZAR_SECURITY_CA": str(tmp_path / "ca.pem")}
    for variables in (other, {"PULZAR_URL": cluster.master_url}):
        refused = command_line(["status", "--patience", "0.5"], variables)
        assert refused.returncode == 69
        assert "certificate is not trusted" in refused.stderr
        assert "Traceback" not in refused.stderr
    # Nor is a name that the certificate does not have
    url = cluster.master_url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
        trusting(str(tmp_path / "ca.pem")).get(url, timeout=5)


def test_a_client_without_tls_is_not_answered(cluster: Cluster) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(cluster.master_url.replace("https", "http"), timeout=10)


def test_jobs_and_manage_py_reach_the_master(
    make_cluster: Clusters, authority: Path, tmp_path: Path, session: requests.Session
) -> None:
    # Given a script that reads and stores keys
    (tmp_path / "jobs" / "copy").mkdir(parents=True)
    (tmp_path / "jobs" / "copy" / "copy.py").write_text(SCRIPT)
    cluster = make_cluster(
        nodes=1, env=settings(authority, "SERVER", "VOLUME") | {"PULZAR_JOBS_DIR": str(tmp_path / "jobs")}
    )
    master = cluster.master_url
    value = os.urandom(LARGE)
    where = session.get(f"{master}/get_node/source").json()["data"]["node"]
    assert session.put(where, data=value).status_code == 201
    # When it is launched, with a value as its input besides
    sent = {"target": "target", "pulzar_data": "source"}
    wait_for(lambda: session.get(f"{master}/admin/job_catalog").json()["data"], what="the catalog")
    number = session.post(f"{master}/launch_job/copy/copy", json=sent).json()["data"]["job_id"]
    wait_for(
        lambda: session.get(f"{master}/admin/jobs/{number}").json()["data"]["status"] != "pending", what="the job's end"
    )
    job = session.get(f"{master}/admin/jobs/{number}").json()["data"]
    assert job["status"] == "completed", job
    assert session.get(f"{master}/get_key/target").content == value
    # And manage.py reads every value of the node through the master
    verified = subprocess.run(
        [sys.executable, "ops/manage.py", "verify", "--json"],
        env=os.environ
        | settings(authority, "SERVER")
        | {"PULZAR_SERVER_PORT": str(cluster.base_port)}
        | {"PULZAR_SERVER_HOST": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert verified.returncode == 0, verified.stderr + verified.stdout


@pytest.mark.parametrize("section", ["SERVER", "VOLUME"])
def test_one_of_master_and_nodes_may_have_tls_alone(
    make_cluster: Clusters, authority: Path, session: requests.Session, section: str
) -> None:
    cluster = make_cluster(nodes=1, env=settings(authority, section))
    key, value = unique(), os.urandom(LARGE)
    where = session.get(f"{cluster.master_url}/get_node/{key}").json()["data"]["node"]
    assert urlsplit(where).scheme == ("https" if section == "VOLUME" else "http")
    assert session.put(where, data=value).status_code == 201
    assert session.get(f"{cluster.master_url}/get_key/{key}").content == value


def test_a_renewed_certificate_is_served_and_no_request_fails(make_cluster: Clusters, tmp_path: Path) -> None:
    # Given a cluster under load: new connections, kept connections, and an upload that takes its time
    certificates.make(tmp_path, ["127.0.0.1"], 90)
    cluster = make_cluster(nodes=1, env=settings(tmp_path, "SERVER", "VOLUME"))
    ports = (cluster.base_port, cluster.nodes[0].port)
    before = [served(port, tmp_path) for port in ports]
    ca = str(tmp_path / "ca.pem")
    with trusting(ca) as session:
        key = unique()
        where = session.get(f"{cluster.master_url}/get_node/{key}").json()["data"]["node"]
        assert session.put(where, data=os.urandom(200_000)).status_code == 201
    failed: list[str] = []
    done, stop, slow_over = [0], threading.Event(), threading.Event()

    def ask() -> None:
        client = Client(cluster.master_url, patience=0.0, ca=ca)
        while not stop.is_set():
            try:
                assert len(client.fetch(key)) == 200_000
                client.store(b"x" * 100, unique())
                done[0] += 1
            except (StoreError, AssertionError) as error:
                failed.append(repr(error))

    def slowly() -> None:
        def pieces() -> Any:
            while not stop.is_set():
                yield b"y" * 1000
                time.sleep(0.05)

        with trusting(ca) as session:
            url = session.get(f"{cluster.master_url}/get_node/slow", timeout=10).json()["data"]["node"]
            answer = session.put(url, data=pieces(), timeout=60)
        if answer.status_code != 201:
            failed.append(f"the slow upload: {answer.status_code} {answer.text}")
        slow_over.set()

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=slowly)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: done[0] > 5, what="some requests")
        # When files are there that can't be used
        file = tmp_path / "127.0.0.1.pem"
        good = file.read_bytes()
        file.write_bytes(good[: len(good) // 2])
        for process in (cluster.master, cluster.nodes[0].process):
            wait_for(lambda log=process.log: "the old one stays" in log.read_text(), what="a refusal")  # type: ignore[misc]
        # Then the old certificate is served
        assert [served(port, tmp_path) for port in ports] == before
        # And when it is renewed, the new one is
        certificates.make(tmp_path, ["127.0.0.1"], 90, renew=True)
        for port, old in zip(ports, before, strict=True):
            wait_for(lambda port=port, old=old: served(port, tmp_path) != old, what="the new certificate")  # type: ignore[misc]
        more = done[0]
        wait_for(lambda: done[0] > more + 5, what="more requests")
        assert not slow_over.is_set()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    # And no request has failed, nor the upload that began before
    assert failed == []
    assert slow_over.is_set()
    with trusting(ca) as session:
        assert len(session.get(f"{cluster.master_url}/get_key/slow", timeout=10).content) >= 1000


def started(cluster_env: dict[str, str], directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PULZAR_")} | cluster_env
    env |= {"PULZAR_SERVER_DIR": str(directory), "PULZAR_VOLUME_DIR": str(directory)}
    env |= {"PULZAR_SERVER_PORT": "0", "PULZAR_VOLUME_PORT": "0"}
    return subprocess.run([sys.executable, "-m", program], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", ["master", "node"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("key missing", "key is missing"),
        ("no key file", "can't be read"),
        ("open key", "chmod 600"),
        ("other key", "is not the key of"),
        ("no certificate", "is no certificate in PEM"),
        ("no authority", "ca ="),
    ],
)
def test_a_start_with_a_pair_that_can_not_be_used_is_refused(
    authority: Path, tmp_path: Path, program: str, damage: str, said: str
) -> None:
    copied = tmp_path / "tls"
    shutil.copytree(authority, copied)
    section = "SERVER" if program == "master" else "VOLUME"
    env = settings(copied, section)
    match damage:
        case "key missing":
            del env[f"PULZAR_{section}_KEY"]
        case "no key file":
            (copied / "127.0.0.1.key").unlink()
        case "open key":
            (copied / "127.0.0.1.key").chmod(0o644)
        case "other key":
            shutil.copy(copied / "ca.key", copied / "127.0.0.1.key")
        case "no certificate":
            (copied / "127.0.0.1.pem").write_text("nothing\n")
        case "no authority":
            (copied / "ca.pem").write_text("nothing\n")
    ended = started(env, tmp_path / "data", program)
    assert ended.returncode == 2, ended
    assert said in ended.stderr, ended
    assert "Traceback" not in ended.stderr


def test_rabbitmq_is_reached_by_tls(
    authority: Path, tmp_path: Path, installation: Installation, make_cluster: Clusters
) -> None:
    # Given a RabbitMQ that listens with TLS besides
    base, secure = free_base(), free_base()
    more = f"""\
listeners.ssl.1 = 127.0.0.1:{secure}
ssl_options.cacertfile = {authority / "ca.pem"}
ssl_options.certfile = {authority / "127.0.0.1.pem"}
ssl_options.keyfile = {authority / "127.0.0.1.key"}
ssl_options.verify = verify_none
"""
    ports = (base + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD))
    rabbit = Rabbit(tmp_path / "rabbitmq", *ports, installation=installation, configuration=more)
    try:
        rabbit.start()
        plain = urlsplit(rabbit.url())
        url = plain._replace(scheme="amqps", netloc=plain.netloc.replace(str(plain.port), str(secure))).geturl()
        # When nobody vouches for its certificate, there is no connection, and the reason is told
        other = tmp_path / "other"
        certificates.make(other, ["other"], 1)
        for ca in ("", str(other / "ca.pem")):
            link = Link(url, "test", topology.master, ca=ca)
            link.start()
            try:
                wait_for(lambda link=link: "certificate" in link.problem, what="a reason")  # type: ignore[misc]
                assert not link.up
            finally:
                link.stop()
        # And with the authority a whole cluster works
        cluster = make_cluster(nodes=1, broker_url=url, env={"PULZAR_SECURITY_CA": str(authority / "ca.pem")})
        key = unique()
        assert requests.put(f"{cluster.master_url}/add_key/{key}", data=b"value", timeout=30).status_code == 201
    finally:
        rabbit.kill()
        rabbit.stop()


def test_a_certificate_that_ends_soon_is_told(make_cluster: Clusters, tmp_path: Path) -> None:
    certificates.make(tmp_path, ["127.0.0.1"], 7)
    cluster = make_cluster(nodes=1, env=settings(tmp_path, "SERVER", "VOLUME"))
    with trusting(str(tmp_path / "ca.pem")) as session:

        def told() -> list[str]:
            return list(session.get(f"{cluster.master_url}/health").json()["data"]["warnings"])

        wait_for(lambda: len(told()) == 2, what="both warnings")
        assert all("ends on" in sentence for sentence in told())
        # When it is renewed, nobody warns
        certificates.make(tmp_path, ["127.0.0.1"], 90, renew=True)
        wait_for(lambda: told() == [], what="no warning")


def test_a_certificate_that_has_ended_is_refused(authority: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from broker.tls import certificates as servers

    later = time.time() + 91 * 86_400
    monkeypatch.setattr(servers.time, "time", lambda: later)
    with pytest.raises(SettingsError, match="has ended on"):
        servers.read("server", str(authority / "127.0.0.1.pem"), str(authority / "127.0.0.1.key"))


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], True),
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], True),
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"], False),
        (["-newkey", "ed25519"], True),
        (["-newkey", "rsa:2048"], True),
        (["-newkey", "rsa:1024"], False),
    ],
)
def test_keys_of_kinds_that_are_not_served_are_refused(tmp_path: Path, kind: list[str], served: bool) -> None:
    from broker.tls import certificates as servers

    cert, key = tmp_path / "a.pem", tmp_path / "a.key"
    made = ["openssl", "req", "-x509", "-nodes", *kind, "-subj", "/CN=a", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    key.chmod(0o600)
    if served:
        assert servers.read("server", str(cert), str(key))
    else:
        with pytest.raises(SettingsError, match="not served"):
            servers.read("server", str(cert), str(key))
