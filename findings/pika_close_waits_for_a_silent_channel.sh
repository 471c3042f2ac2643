#!/usr/bin/env bash
# pika 1.4.4 and amqp 5.3.1 (Celery's client) with RabbitMQ 3.10.8 (Debian 12's packages with their Erlang 25, unpacked
# into a temporary folder), two nodes: a quorum queue has a member on each, and one node is stopped. A channel asks it for
# a message, which RabbitMQ does not answer as long as that lasts. Then the connection is closed; its heartbeat is 2 s.
# Guessed: pika's close() ends within seconds: RabbitMQ agrees to the end of a connection whatever its channels do, and
# a connection that hangs is ended by the heartbeat.
# Seen: it has not ended after 30 s. pika first closes each channel, and Channel.Close waits in its own queue behind the
# request without an answer. So Connection.Close never leaves, heartbeats go on, and no timer ends it. RabbitMQ would
# agree at once: amqp, which sends Connection.Close alone, is done within a second.
# A service that closes its connection in order to make a new one stays without one until somebody kills it.
set -euo pipefail
folder=$(mktemp -d)
cd "$folder"
apt-get -q download rabbitmq-server=3.10.8-1.1+deb12u1 erlang-{asn1,base,crypto,eldap,ftp,inets,mnesia,os-mon,parsetools} \
    erlang-{public-key,runtime-tools,snmp,ssl,syntax-tools,tftp,tools,xmerl} >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
python3 -m venv venv
venv/bin/pip -q install pika==1.4.4 amqp==5.3.1 >/dev/null 2>&1
export PATH="$folder/root/usr/lib/rabbitmq/bin:$folder/root/usr/lib/erlang/bin:$PATH" HOME="$folder"
export RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_CONFIG_FILE="$folder/rabbit.conf"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=24469 PORT=24472
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
printf 'log.file.level = warning\n' >rabbit.conf
echo '[].' >plugins
ctl() { rabbitmqctl -q -n "$@"; }
start() {
    RABBITMQ_NODENAME=$1 RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$2 RABBITMQ_DIST_PORT=$3 \
        rabbitmq-server >"$1.log" 2>&1 &
    for _ in $(seq 60); do ctl "$1" await_startup >/dev/null 2>&1 && return; sleep 1; done
    return 1
}
stop() {
    for node in one two; do ctl $node@localhost stop >/dev/null 2>&1 || true; done
    wait
}
trap 'stop; epmd -kill >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
start one@localhost $PORT 24470
start two@localhost 24475 24473
for command in stop_app reset "join_cluster one@localhost" start_app; do ctl two@localhost $command >/dev/null; done
echo "RabbitMQ $(ctl one@localhost version)"
cat >try.py <<'END'
import os, subprocess, threading, time
import amqp
import pika

PORT, WAIT_SECS = int(os.environ["PORT"]), 30

with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", PORT)) as connection:
    connection.channel().queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
subprocess.run(["rabbitmqctl", "-q", "-n", "two@localhost", "stop_app"], check=True)

def by_pika(asks):
    """Seconds until the connection was closed, None when it was not; and its state then."""
    asked, closed = [], []
    def opened(connection):
        connection.channel(on_open_callback=got)
    def got(channel):
        if asks:
            channel.basic_get("q", lambda *_: None)
        connection.ioloop.call_later(1, close)
    def close():
        asked.append(time.monotonic())
        connection.close()
    def ended(*_):
        closed.append(time.monotonic() - asked[0])
        connection.ioloop.stop()
    connection = pika.SelectConnection(pika.ConnectionParameters("127.0.0.1", PORT, heartbeat=2), opened, None, ended)
    connection.ioloop.call_later(WAIT_SECS + 1, connection.ioloop.stop)
    connection.ioloop.start()
    return "closed within a second" if closed and closed[0] < 1 else f"{connection} after {WAIT_SECS} s".split()[1]

def by_amqp():
    connection = amqp.Connection(f"127.0.0.1:{PORT}", heartbeat=2)
    connection.connect()
    channel = connection.channel()
    channel.send_method(amqp.spec.Basic.Get, "Bsb", (0, "q", False))  # as basic_get does, without the wait for an answer
    time.sleep(1)
    began = time.monotonic()
    connection.close()
    return "closed within a second" if time.monotonic() - began < 1 else "slow"

print("pika, nothing asked:", by_pika(False))
print("amqp, asked:", by_amqp())
print("pika, asked:", by_pika(True))
END
venv/bin/python try.py 2>/dev/null | tee seen
diff seen - <<'END'
pika, nothing asked: closed within a second
amqp, asked: closed within a second
pika, asked: CLOSING
END
