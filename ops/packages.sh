#!/bin/sh
# As root: installs Debian packages that ops/up, ops/test and ops/bench need. The machine's RabbitMQ is not started, now
# or at the next boot: Pulzar starts a private one. Nor are OpenSSH's server, which tests start on loopback, and Prometheus,
# of which they need promtool.
set -eu

policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-pulzar
ours='# made by Pulzar while it installs packages'

restore() {
    rm -f "$policy"
    [ ! -e "$kept" ] || mv "$kept" "$policy"
}

# Two at once wait for each other, also those of different checkouts.
exec 9</usr/sbin
flock 9

# Each package that wants to start a service asks this script; 101 means no. An existing one is put back afterwards, and
# so is one that an interrupted installation has left aside.
trap restore EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$policy" ] && ! grep -q "$ours" "$policy"; then
    mv "$policy" "$kept"
fi
printf '#!/bin/sh\n%s\nexit 101\n' "$ours" >"$policy"
chmod 755 "$policy"

new=yes
[ ! -e /usr/lib/rabbitmq/bin/rabbitmq-server ] || new=
new_ssh=yes
[ ! -e /usr/sbin/sshd ] || new_ssh=
new_prometheus=yes
[ ! -e /usr/bin/prometheus ] || new_prometheus=

export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -y -o DPkg::Lock::Timeout=300"
# Package lists that can't be refreshed may still be good enough; if not, the installation says why.
$apt update || echo "apt-get update failed; trying with the lists at hand"
$apt install --no-install-recommends "$@"

if [ -n "$new" ] && [ -e /usr/lib/rabbitmq/bin/rabbitmq-server ] && command -v systemctl >/dev/null; then
    systemctl disable rabbitmq-server.service || echo "rabbitmq-server.service stays enabled"
fi
if [ -n "$new_ssh" ] && [ -e /usr/sbin/sshd ] && command -v systemctl >/dev/null; then
    systemctl disable ssh.service ssh.socket || echo "ssh.service stays enabled"
fi
if [ -n "$new_prometheus" ] && [ -e /usr/bin/prometheus ] && command -v systemctl >/dev/null; then
    systemctl disable prometheus.service || echo "prometheus.service stays enabled"
fi
