#!/usr/bin/env bash
# RabbitMQ 3.10.8 (Debian 12's packages with their Erlang 25, unpacked into a temporary folder), pika 1.4.4: a policy with
# max-length 2 and overflow reject-publish over a quorum and a classic queue, filled, and then removed.
# Guessed: both queues take 2 messages and refuse the rest. Without the policy they take messages again.
# Seen: the quorum queue takes 3. Without the policy it goes on refusing each message of the channel that it had refused
# before, even when it has been emptied. At the same time it takes those of another connection. A new policy with a higher limit
# ends that; so the server remembers the limit for each channel. The classic queue does as was guessed.
# A service that publishes on one connection for months stays refused after the limit is lifted, and a test by hand,
# which connects anew, shows nothing.
set -euo pipefail
folder=$(mktemp -d)
cd "$folder"
apt-get -q download rabbitmq-server=3.10.8-1.1+deb12u1 erlang-{asn1,base,crypto,eldap,ftp,inets,mnesia,os-mon,parsetools} \
    erlang-{public-key,runtime-tools,snmp,ssl,syntax-tools,tftp,tools,xmerl} >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
python3 -m venv venv
venv/bin/pip -q install pika==1.4.4 >/dev/null 2>&1
export PATH="$folder/root/usr/lib/rabbitmq/bin:$folder/root/usr/lib/erlang/bin:$PATH" HOME="$folder"
export RABBITMQ_NODENAME=finding@localhost RABBITMQ_MNESIA_BASE="$folder/mnesia" RABBITMQ_LOG_BASE="$folder/log"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" RABBITMQ_CONFIG_FILE="$folder/rabbit.conf" ERL_EPMD_ADDRESS=127.0.0.1
export PORT=24372 RABBITMQ_DIST_PORT=24370 ERL_EPMD_PORT=24369
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
printf 'listeners.tcp.1 = 127.0.0.1:%s\nlog.file.level = warning\n' $PORT >rabbit.conf
echo '[].' >plugins
start() {
    rabbitmq-server >server.log 2>&1 &
    for _ in $(seq 60); do rabbitmqctl -q await_startup >/dev/null 2>&1 && return; sleep 1; done
    return 1
}
stop() {
    rabbitmqctl -q stop >/dev/null 2>&1 || true
    wait
}
trap 'stop; epmd -kill >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT
start
echo "RabbitMQ $(rabbitmqctl version)"
cat >try.py <<'END'
import os, subprocess, time
import pika

def ctl(*arguments):
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, stdout=subprocess.DEVNULL)
    time.sleep(2)

def limit(length):
    ctl("set_policy", "limit", "^q", '{"max-length":%d,"overflow":"reject-publish"}' % length)

connections = []
def channel():
    connections.append(pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(os.environ["PORT"]))))
    opened = connections[-1].channel()
    opened.confirm_delivery()
    return opened

def send(queue, count, through=None):
    through = through or channel()
    said = []
    for _ in range(count):
        try:
            through.basic_publish("", queue, b"x", pika.BasicProperties(delivery_mode=2))
            said.append("taken")
        except pika.exceptions.NackError:
            said.append("refused")
    return " ".join(said)

for kind in ("classic", "quorum"):
    queue = f"q.{kind}"
    first = channel()
    first.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    limit(2)
    print(f"{kind}, limit 2: {send(queue, 5, first)}")
    ctl("clear_policy", "limit")
    print(f"{kind}, no policy: {send(queue, 2, first)}; by another connection: {send(queue, 2)}")
    first.basic_get(queue, auto_ack=True)
    print(f"{kind}, one taken out: {send(queue, 2, first)}; by another connection: {send(queue, 2)}")
    first.queue_purge(queue)
    time.sleep(5)
    print(f"{kind}, emptied: {send(queue, 2, first)}; by another connection: {send(queue, 2)}")
    limit(1000)
    print(f"{kind}, limit 1000: {send(queue, 2, first)}")
    ctl("clear_policy", "limit")
    print(f"{kind}, no policy again: {send(queue, 2, first)}")
for connection in connections:
    connection.close()
END
venv/bin/python try.py | tee seen
diff seen - <<'END'
classic, limit 2: taken taken refused refused refused
classic, no policy: taken taken; by another connection: taken taken
classic, one taken out: taken taken; by another connection: taken taken
classic, emptied: taken taken; by another connection: taken taken
classic, limit 1000: taken taken
classic, no policy again: taken taken
quorum, limit 2: taken taken taken refused refused
quorum, no policy: refused refused; by another connection: taken taken
quorum, one taken out: refused refused; by another connection: taken taken
quorum, emptied: refused refused; by another connection: taken taken
quorum, limit 1000: taken taken
quorum, no policy again: taken taken
END
