#!/usr/bin/env bash
# Celery 5.7.0 on RabbitMQ 3.10.8 (Debian 12's packages, unpacked into a temporary folder): tasks with a countdown, first for a
# classic queue, then for a quorum queue behind a topic exchange, where Celery delays messages inside RabbitMQ.
# Guessed: a countdown is a number of seconds for both kinds of queue, fractions included.
# Seen: with the quorum queue 0 is taken and 1.5 is taken, but 0.3 and 0.9 raise ValueError "countdown must be a positive number"
# in the publisher. Celery cuts the fraction off, and its delay of 0 is none. With the classic queue all are taken.
# Who retries with countdown=0.5 and moves to quorum queues loses the retry: the error comes out of Task.retry.
set -euo pipefail
folder=$(mktemp -d)
cd "$folder"
apt-get -q download rabbitmq-server=3.10.8-1.1+deb12u1 erlang-{asn1,base,crypto,eldap,ftp,inets,mnesia,os-mon,parsetools} \
    erlang-{public-key,runtime-tools,snmp,ssl,syntax-tools,tftp,tools,xmerl} >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
python3 -m venv venv
venv/bin/pip -q install celery==5.7.0 kombu==5.7.0 >/dev/null 2>&1
export PATH="$folder/root/usr/lib/rabbitmq/bin:$folder/root/usr/lib/erlang/bin:$PATH" HOME="$folder"
export RABBITMQ_NODENAME=finding@localhost RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder/log"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" RABBITMQ_CONFIG_FILE="$folder/rabbit.conf" ERL_EPMD_ADDRESS=127.0.0.1
export PORT=24382 RABBITMQ_DIST_PORT=24380 ERL_EPMD_PORT=24379
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
printf 'listeners.tcp.1 = 127.0.0.1:%s\nlog.file.level = warning\n' $PORT >rabbit.conf
echo '[].' >plugins
trap 'rabbitmqctl -q stop >/dev/null 2>&1 || true; wait; epmd -kill >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
rabbitmq-server >server.log 2>&1 &
for _ in $(seq 60); do rabbitmqctl -q await_startup >/dev/null 2>&1 && break; sleep 1; done
echo "RabbitMQ $(rabbitmqctl version), Celery $(venv/bin/python -c 'import celery; print(celery.__version__)')"
cat >app.py <<'END'
import os
from celery import Celery
from kombu import Exchange, Queue

kind = os.environ["KIND"]
app = Celery("app", broker=f"amqp://guest:guest@127.0.0.1:{os.environ['PORT']}//")
app.conf.update(
    task_default_queue=kind,
    task_default_exchange_type="topic",
    task_default_routing_key=kind,
    task_queues=[Queue(kind, Exchange(kind, type="topic"), kind, queue_arguments={"x-queue-type": kind})],
    broker_connection_retry_on_startup=True,
)

@app.task
def nothing(): pass
END
cat >try.py <<'END'
import app

for countdown in (0, 0.3, 0.9, 1, 1.5):
    try:
        app.nothing.apply_async(countdown=countdown)
        print(f"{app.kind}, countdown {countdown}: taken")
    except ValueError as error:
        print(f"{app.kind}, countdown {countdown}: ValueError: {error}")
END
for KIND in classic quorum; do
    export KIND
    venv/bin/celery -A app worker -P solo -c 1 --without-gossip --without-mingle >"$KIND.log" 2>&1 &
    worker=$!
    for _ in $(seq 60); do grep -q ready "$KIND.log" && break; sleep 0.5; done
    venv/bin/python try.py
    kill "$worker"
    wait "$worker" || true
done | tee seen
diff seen - <<'END'
classic, countdown 0: taken
classic, countdown 0.3: taken
classic, countdown 0.9: taken
classic, countdown 1: taken
classic, countdown 1.5: taken
quorum, countdown 0: taken
quorum, countdown 0.3: ValueError: countdown must be a positive number
quorum, countdown 0.9: ValueError: countdown must be a positive number
quorum, countdown 1: taken
quorum, countdown 1.5: taken
END
