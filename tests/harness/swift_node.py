"""A whole OpenStack Swift with its S3 API in one process: proxy, account, container and object server, one device, one replica.

    python tests/harness/swift_node.py DIRECTORY PORT ACCOUNT:USER KEY

A real S3 service: signatures (SigV4), multipart uploads with ListParts and composite ETags, Content-MD5 and SHA-256 refused where
they do not fit, clocks that may differ by 15 minutes. It keeps objects in files (extended attributes), so that a DIRECTORY used before
is as it was. Says `ready` when it serves.
"""

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")

import eventlet  # noqa: E402

eventlet.monkey_patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402
from swift.common import storage_policy, utils  # noqa: E402
from swift.common import wsgi as swift_wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402

STORAGE = """[DEFAULT]
swift_dir = {swift}
devices = {devices}
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
log_level = ERROR
log_address = {swift}/none
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """[DEFAULT]
swift_dir = {swift}
log_level = ERROR
log_address = {swift}/none
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
min_segment_size = 1
allowable_clock_skew = 900
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {key} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def make_ring(swift: Path, kind: str, port: int) -> None:
    builder = RingBuilder(4, 1, 0)
    where = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0, "meta": ""}
    builder.add_dev({**where, "replication_ip": "127.0.0.1", "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(str(swift / f"{kind}.ring.gz"))


def serve(directory: Path, port: int, user: str, key: str) -> None:
    swift, devices = directory / "etc", directory / "devices"
    for made in (swift, devices / "d1"):
        made.mkdir(parents=True, exist_ok=True)
    (swift / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = medianode\n")
    utils.HASH_PATH_SUFFIX = b"medianode"
    utils.config.SWIFT_CONF_FILE = str(swift / "swift.conf")
    storage_policy.reload_storage_policies()
    servers = []
    for kind in ("account", "container", "object"):
        sock = eventlet.listen(("127.0.0.1", 0))
        conf = swift / f"{kind}.conf"
        conf.write_text(STORAGE.format(swift=swift, devices=devices, kind=kind))
        make_ring(swift, kind, sock.getsockname()[1])
        servers.append((sock, conf))
    account, _, name = user.partition(":")
    conf = swift / "proxy.conf"
    conf.write_text(PROXY.format(swift=swift, account=account, user=name, key=key))
    servers.append((eventlet.listen(("127.0.0.1", port)), conf))
    threads = []
    with open("/dev/null", "w") as nowhere:
        for sock, conf in servers:
            app = swift_wsgi.loadapp(str(conf), global_conf={"log_name": conf.stem})
            threads.append(eventlet.spawn(wsgi.server, sock, app, nowhere))
        print("ready", flush=True)
        for thread in threads:
            thread.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
