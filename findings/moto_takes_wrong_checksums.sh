#!/usr/bin/env bash
# moto 5.2.5's S3 server and boto3 1.44.8: uploads whose checksum is not that of their bytes, and guarded writes.
# Guessed: as S3 does: 400 BadDigest for each wrong checksum, 412 for each guard that does not hold.
# Seen: a wrong Content-MD5 and a wrong x-amz-checksum-sha256 are stored with 200, and the object has no checksum when it is
# asked for. The guards of PutObject, DeleteObject and CompleteMultipartUpload hold, but CopyObject passes over If-None-Match
# and writes over the object.
# A test of "a damaged upload is refused" that runs against moto can only be green for the wrong reason, or never.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server-}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install "moto[server]==5.2.5" boto3==1.44.8 >/dev/null 2>&1
venv/bin/moto_server -H 127.0.0.1 -p 24391 >server.log 2>&1 &
server=$!
for _ in $(seq 60); do (: </dev/tcp/127.0.0.1/24391) 2>/dev/null && break; sleep 0.5; done
cat >try.py <<'END'
import importlib.metadata

import boto3
from botocore.exceptions import ClientError

for package in ("moto", "boto3"):
    print(package, importlib.metadata.version(package))
s3 = boto3.client(
    "s3", endpoint_url="http://127.0.0.1:24391", aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
)
s3.create_bucket(Bucket="bucket")
s3.put_object(Bucket="bucket", Key="key", Body=b"one")
WRONG = {"md5": "A" * 22 + "==", "sha256": "A" * 43 + "="}

def say(what, call, **arguments):
    try:
        print(f"{what}:", call(Bucket="bucket", **arguments)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        print(f"{what}:", error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])

say("put, wrong MD5", s3.put_object, Key="md5", Body=b"two", ContentMD5=WRONG["md5"])
say("put, wrong SHA-256", s3.put_object, Key="sha256", Body=b"two", ChecksumSHA256=WRONG["sha256"])
found = s3.head_object(Bucket="bucket", Key="sha256", ChecksumMode="ENABLED")
print("its checksum:", found.get("ChecksumSHA256"))
say("put if there is none", s3.put_object, Key="key", Body=b"two", IfNoneMatch="*")
say("delete if it matches", s3.delete_object, Key="key", IfMatch='"00000000000000000000000000000000"')
source = {"Bucket": "bucket", "Key": "md5"}
say("copy if there is none", s3.copy_object, Key="key", CopySource=source, IfNoneMatch="*")
print("the object is now:", s3.get_object(Bucket="bucket", Key="key")["Body"].read())
END
venv/bin/python try.py | tee seen
diff seen - <<'END'
moto 5.2.5
boto3 1.44.8
put, wrong MD5: 200
put, wrong SHA-256: 200
its checksum: None
put if there is none: 412 PreconditionFailed
delete if it matches: 412 PreconditionFailed
copy if there is none: 200
the object is now: b'two'
END
