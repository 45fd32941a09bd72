"""The embedded server: what it writes, what a node's credential is held to, and what outlives a crash."""

from __future__ import annotations

import hashlib
import json
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Signer
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from starloom.errors import BadInput, Conflict, StarloomError, Unavailable
from starloom.lake import LakeDenied, ObjectMissing, connect, uploads, wire
from starloom.lake.credentials import Credentials
from starloom.lake.policies import node_grant, node_user, reader_grant, worker_grant
from starloom.lake.s3 import S3Lake
from starloom.lake.seaweed import SeaweedFS
from starloom.settings import Settings

MIB = 2**20


def as_node(settings: Settings, access_key: str, secret_key: str, **options: Any) -> S3Lake:
    return S3Lake(
        "starloom",
        endpoint=settings.lake_endpoint,
        access_key=access_key,
        secret_key=secret_key,
        **options,
    )


@pytest.fixture
def nodes_lake(seaweed: Any, seaweed_settings: Settings, node: str) -> Iterator[S3Lake]:
    """The lake as the node `node` reaches it with its own credential."""
    lake = as_node(
        seaweed_settings,
        *seaweed.keys.give(node_grant(node, "starloom")),
        multipart_threshold=MIB,
        part_size=5 * MIB,
    )
    yield lake
    lake.close()
    seaweed.keys.revoke(node_user(node))


def test_prepare_is_stable_and_private(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path)
    first = server.prepare()
    assert set(first) == {
        "STARLOOM_LAKE_URL",
        "STARLOOM_LAKE_ENDPOINT",
        "STARLOOM_LAKE_ACCESS_KEY",
        "STARLOOM_LAKE_SECRET_KEY",
    }
    assert SeaweedFS(tmp_path).prepare() == first
    for name in ("state.json", "s3.json"):
        assert stat.S_IMODE((tmp_path / "seaweed" / name).stat().st_mode) == 0o600
    command = server.command()
    assert "-master.telemetry=false" in command
    assert first["STARLOOM_LAKE_SECRET_KEY"] not in " ".join(command)
    ports = json.loads((tmp_path / "seaweed" / "state.json").read_text())["ports"]
    assert len(set(ports.values())) == 8
    assert SeaweedFS(tmp_path / "other").prepare()["STARLOOM_LAKE_SECRET_KEY"] != first["STARLOOM_LAKE_SECRET_KEY"]


def test_a_port_that_is_taken_is_left_to_its_owner(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path)
    first = server.prepare()
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(first["STARLOOM_LAKE_ENDPOINT"].rsplit(":", 1)[1])))
        other.listen()
        second = server.prepare()
    assert second["STARLOOM_LAKE_ENDPOINT"] != first["STARLOOM_LAKE_ENDPOINT"]
    assert second["STARLOOM_LAKE_SECRET_KEY"] == first["STARLOOM_LAKE_SECRET_KEY"]


def test_the_ports_of_a_running_server_stay(seaweed: Any) -> None:
    assert SeaweedFS(seaweed.home).prepare() == seaweed.environment


def test_not_started(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path)
    with pytest.raises(StarloomError) as caught:
        server.command()
    assert caught.value.code == "lake-not-prepared"
    server.prepare()
    for attempt in (
        lambda: server.wait_ready(0.5),
        lambda: Credentials(server).give(node_grant("T1", "starloom")),
    ):
        with pytest.raises(Unavailable) as unavailable:
            attempt()
        assert unavailable.value.code == "lake-unavailable"


def test_only_the_s3_port_serves_objects(seaweed: Any, s3: S3Lake) -> None:
    ports = json.loads((seaweed.home / "seaweed" / "state.json").read_text())["ports"]
    s3.put_bytes(b"x", "stacks/open/a")
    for path in ("/", "/buckets/starloom-products/stacks/open/a"):
        assert httpx.get(f"http://127.0.0.1:{ports['filer']}{path}").status_code == 404
    assert httpx.get(f"http://127.0.0.1:{ports['s3']}/starloom-products/stacks/open/a").status_code == 403


def test_a_node_sends_to_its_inbox_and_reads_its_receipts(
    nodes_lake: S3Lake, s3: S3Lake, node: str, big_file: Path
) -> None:
    key = f"inbox/{node}/20250101/a.fits.fz"
    nodes_lake.put_bytes(b"{}", f"{key}.announce.json")
    stored = nodes_lake.put_file(big_file, key, metadata={"pixel-digest": "d"})
    found = s3.stat(key)
    assert found is not None
    assert (found.size, found.etag, found.metadata) == (stored.size, stored.etag, {"pixel-digest": "d"})
    with pytest.raises(ObjectMissing):
        nodes_lake.get_bytes(f"receipts/{node}/a.fits.fz.json", max_bytes=100)
    s3.put_bytes(b'{"state": "ready"}', f"receipts/{node}/a.fits.fz.json")
    assert nodes_lake.get_bytes(f"receipts/{node}/a.fits.fz.json", max_bytes=100) == b'{"state": "ready"}'
    with pytest.raises(Conflict):
        nodes_lake.put_file(big_file, key, if_absent=True)


def test_a_node_goes_on_with_its_own_upload(
    nodes_lake: S3Lake, node: str, big_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"inbox/{node}/20250101/a.fits.fz"
    sent: list[int] = []
    real = wire.put_part

    def put_part(client: Any, bucket: str, key: str, upload_id: str, number: int, data: bytes) -> str:
        if number == 3 and not sent.count(3):
            sent.append(3)
            raise Unavailable("the line broke", code="lake-unavailable")
        sent.append(number)
        return real(client, bucket, key, upload_id, number, data)

    monkeypatch.setattr(uploads.wire, "put_part", put_part)
    with pytest.raises(Unavailable):
        nodes_lake.put_file(big_file, key)
    nodes_lake.put_file(big_file, key)
    assert sent == [1, 2, 3, 3]


def test_a_node_may_do_nothing_else(nodes_lake: S3Lake, s3: S3Lake, seaweed: Any, node: str) -> None:
    digest = "cd" * 32
    own, other = f"inbox/{node}/20250101/own", "inbox/other/20250101/x"
    for key in (own, other, f"raw/{node}/20250101/{digest}.fits", f"stacks/{node}/r1/e1/V_p0.fits"):
        s3.put_bytes(b"x", key)
    for key in (f"receipts/{node}/a.json", f"receipts/{node}2/a.json", "receipts/other/a.json"):
        s3.put_bytes(b"x", key)
    begun = wire.begin_upload(s3._client, "starloom-inbox", other, {})
    raw = nodes_lake._client
    attempts = {
        "write to another's inbox": lambda: nodes_lake.put_bytes(b"x", other),
        "write to an inbox of a longer name": lambda: nodes_lake.put_bytes(b"x", f"inbox/{node}2/20250101/x"),
        "write beside the inboxes": lambda: nodes_lake.put_bytes(b"x", "inbox/x"),
        "write raw": lambda: nodes_lake.put_bytes(b"x", f"raw/{node}/x"),
        "write a stack": lambda: nodes_lake.put_bytes(b"x", f"stacks/{node}/x"),
        "forge a receipt": lambda: nodes_lake.put_bytes(b"x", f"receipts/{node}/a.json"),
        "read its inbox": lambda: nodes_lake.get_bytes(own, max_bytes=9),
        "look at its inbox": lambda: nodes_lake.stat(own),
        "read raw": lambda: nodes_lake.get_bytes(f"raw/{node}/20250101/{digest}.fits", max_bytes=9),
        "read a stack": lambda: nodes_lake.get_bytes(f"stacks/{node}/r1/e1/V_p0.fits", max_bytes=9),
        "read another's receipt": lambda: nodes_lake.get_bytes("receipts/other/a.json", max_bytes=9),
        "read a longer name's receipt": lambda: nodes_lake.get_bytes(f"receipts/{node}2/a.json", max_bytes=9),
        "list all inboxes": lambda: list(nodes_lake.list("inbox/")),
        "list its inbox": lambda: list(nodes_lake.list(f"inbox/{node}/")),
        "list its receipts": lambda: list(nodes_lake.list(f"receipts/{node}/")),
        "list raw": lambda: list(nodes_lake.list("raw/")),
        "delete its own": lambda: nodes_lake.delete(own),
        "delete another's": lambda: nodes_lake.delete(other),
        "delete a receipt": lambda: nodes_lake.delete(f"receipts/{node}/a.json"),
        "copy raw into its inbox": lambda: nodes_lake.copy(f"raw/{node}/20250101/{digest}.fits", own),
        "prepare": nodes_lake.prepare,
        "ping": nodes_lake.ping,
    }
    for what, attempt in attempts.items():
        with pytest.raises(LakeDenied):
            pytest.fail(f"a node may {what}: {attempt()!r}")
    below = {
        "delete in bulk": lambda: [
            (_ for _ in ()).throw(error) if error.code != "AccessDenied" else error
            for error in raw.remove_objects("starloom-inbox", [DeleteObject(own)])
        ],
    }
    assert len(below["delete in bulk"]()) == 1
    for what, attempt in {
        "list another's uploads": lambda: wire.list_uploads(raw, "starloom-inbox", "inbox/other/"),
        "list all uploads": lambda: wire.list_uploads(raw, "starloom-inbox", ""),
        "list a longer name's uploads": lambda: wire.list_uploads(raw, "starloom-inbox", f"inbox/{node}"),
        "list another's parts": lambda: wire.list_parts(raw, "starloom-inbox", other, begun),
        "abort another's upload": lambda: wire.abort_upload(raw, "starloom-inbox", other, begun),
        "add to another's upload": lambda: wire.put_part(raw, "starloom-inbox", other, begun, 1, b"x"),
        "copy by part": lambda: raw.copy_object("starloom-inbox", own, CopySource("starloom-inbox", other)),
        "make a bucket": lambda: raw.make_bucket("theirs"),
        "read the policy": lambda: raw.get_bucket_policy("starloom-inbox"),
        "set the policy": lambda: raw.set_bucket_policy("starloom-inbox", "{}"),
        "switch versions off": lambda: raw.get_bucket_versioning("starloom-raw"),
        "read the lifecycle": lambda: raw.get_bucket_lifecycle("starloom-inbox"),
    }.items():
        with pytest.raises(S3Error) as caught:
            pytest.fail(f"a node may {what}: {attempt()!r}")
        assert caught.value.code in {"AccessDenied", "MethodNotAllowed"}, what
    assert [bucket.name for bucket in raw.list_buckets()] == []
    wire.abort_upload(s3._client, "starloom-inbox", other, begun)
    assert s3.get_bytes(other, max_bytes=9) == b"x"


@pytest.mark.parametrize(
    ("tail", "taken"),
    [
        ("20250101/x", True),
        ("../other/20250101/x", False),
        ("%2e%2e/other/20250101/x", False),
        ("..%2fother/x", False),
        ("./../x", False),
    ],
)
def test_no_way_up_from_an_inbox(nodes_lake: S3Lake, s3: S3Lake, node: str, tail: str, taken: bool) -> None:
    """Signed by hand as sent: minio and botocore's client would tidy the path before they sign it."""
    before = {item.key for item in s3.list("inbox/")}
    path = f"/starloom-inbox/inbox/{node}/{tail}"
    request = AWSRequest("PUT", nodes_lake.endpoint + path, data=b"evil")
    request.headers["x-amz-content-sha256"] = hashlib.sha256(b"evil").hexdigest()
    S3SigV4Auth(Signer(nodes_lake._access.access_key, nodes_lake._access.secret_key), "s3", "us-east-1").add_auth(
        request
    )
    host, port = nodes_lake.endpoint.removeprefix("http://").split(":")
    with closing(HTTPConnection(host, int(port), timeout=10)) as line:
        line.request("PUT", path, body=b"evil", headers=dict(request.headers.items()))
        status = line.getresponse().status
    new = {item.key for item in s3.list("inbox/")} - before
    assert (status == 200) is taken
    assert new == ({f"inbox/{node}/{tail}"} if taken else set())


@pytest.mark.parametrize(
    "node_id", ["*", "T*", "T?", "", "a/b", "../x", "a b", "a\nfs.rm -rf /", "T" * 65, "Ä", "a..b"]
)
def test_ids_that_could_widen_a_policy(node_id: str) -> None:
    for grant, code in ((node_grant, "bad-node"), (reader_grant, "bad-name"), (worker_grant, "bad-name")):
        with pytest.raises(BadInput) as caught:
            grant(node_id, "starloom")
        assert caught.value.code == code


def test_a_revoked_node_is_out_at_once(seaweed: Any, seaweed_settings: Settings, node: str) -> None:
    first = as_node(seaweed_settings, *seaweed.keys.give(node_grant(node, "starloom")))
    first.put_bytes(b"x", f"inbox/{node}/20250101/a")
    second = as_node(seaweed_settings, *seaweed.keys.give(node_grant(node, "starloom")))
    with pytest.raises(LakeDenied):
        first.put_bytes(b"x", f"inbox/{node}/20250101/b")
    second.put_bytes(b"x", f"inbox/{node}/20250101/b")
    seaweed.keys.revoke(node_user(node))
    with pytest.raises(LakeDenied):
        second.put_bytes(b"x", f"inbox/{node}/20250101/c")
    seaweed.keys.revoke(node_user(node))
    first.close()
    second.close()


@pytest.mark.slow
def test_objects_and_credentials_outlive_a_crash(tmp_path_factory: pytest.TempPathFactory, seaweed: Any) -> None:
    """SIGKILL, then a restart: nothing that was answered is lost, and nodes need no new credential."""
    settings = seaweed.settings()
    lake = connect(settings)
    data = bytes(range(256)) * 8192
    stored = [lake.put_bytes(data, f"raw/crash/20250101/{i:064x}.fits") for i in range(5)]
    credential = seaweed.keys.give(node_grant("crash", "starloom"))
    seaweed.kill()
    with pytest.raises(Unavailable):
        lake.ping()
    assert seaweed.server.prepare() == seaweed.environment
    seaweed.start()
    for item in stored:
        assert lake.get_bytes(item.key, max_bytes=len(data), version=item.version) == data
    node = as_node(settings, *credential)
    node.put_bytes(b"x", "inbox/crash/20250101/a")
    with pytest.raises(LakeDenied):
        node.get_bytes(stored[0].key, max_bytes=10)
    node.close()
    lake.close()
