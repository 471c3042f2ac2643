#!/usr/bin/env bash
# rclone 1.60.1 (Debian 12's package, unpacked into a temporary folder) and moto 5.2.5's S3 server without TLS, with
# AWS_CA_BUNDLE in the environment, as machines behind a company's own certificate authority have it for aws and boto3.
# Guessed: rclone has its own options for certificates (--ca-cert), its keys are in its configuration, and there is no TLS. So the
# variable changes nothing.
# Seen: every command of the S3 backend fails before it connects: "unable to load custom CA bundle, HTTPClient's transport
# unsupported type". The AWS library inside reads the variable and expects an HTTP transport of its own kind.
# A backup that works from a shell fails on the machine where somebody sets the variable for another tool.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server-}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
apt-get -q download rclone=1.60.1+dfsg-2+b5 >/dev/null 2>&1
dpkg -x rclone*.deb root
python3 -m venv venv
venv/bin/pip -q install "moto[server]==5.2.5" >/dev/null 2>&1
venv/bin/moto_server -H 127.0.0.1 -p 24393 >server.log 2>&1 &
server=$!
for _ in $(seq 60); do (: </dev/tcp/127.0.0.1/24393) 2>/dev/null && break; sleep 0.5; done
printf '[s3]\ntype=s3\nprovider=Other\naccess_key_id=a\nsecret_access_key=b\nregion=us-east-1\nendpoint=%s\n' \
    http://127.0.0.1:24393 >rclone.conf
rclone() { root/usr/bin/rclone --config rclone.conf --retries 1 --low-level-retries 1 "$@"; }
unset AWS_CA_BUNDLE
{
    root/usr/bin/rclone version | head -1
    rclone mkdir s3:bucket && echo "without the variable: made"
    rclone lsf s3: && echo "without the variable: listed"
    export AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
    [ -r "$AWS_CA_BUNDLE" ] && echo "the bundle can be read"
    rclone lsf s3: 2>error || echo "with the variable: status $?: $(grep -o 'transport unsupported type' error | head -1)"
} | tee seen
diff seen - <<'END'
rclone v1.60.1-DEV
without the variable: made
bucket/
without the variable: listed
the bundle can be read
with the variable: status 1: transport unsupported type
END
