"""What each key may do on the real server, how soon it ends, and that every refusal is written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from minio.commonconfig import GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention

from starloom.lake import LakeDenied
from starloom.lake.policies import Grant, node_grant, reader_grant, worker_grant
from starloom.lake.s3 import S3Lake

#: What was refused is told by the server in its own time, and late where many want the machine.
pytestmark = pytest.mark.slow

Holder = Callable[[Grant], S3Lake]
RAW = "raw/{node}/20250101/" + "ab" * 32 + ".fits"


def denied(act: Callable[[], Any]) -> None:
    with pytest.raises(LakeDenied):
        pytest.fail(f"was allowed: {act()!r}")


def test_a_wrong_key_a_wrong_secret_and_none_at_all(
    seaweed: Any, s3: S3Lake, holder: Holder, refusals: Any, node: str
) -> None:
    key = f"inbox/{node}/20250101/a.fits"
    good = holder(node_grant(node, "starloom"))
    for access_key, secret_key in (("SLNOBODY", "x" * 40), (good._access.access_key, "x" * 40)):
        wrong = seaweed.server.lake(access_key, secret_key)
        denied(lambda lake=wrong: lake.put_bytes(b"x", key))
        wrong.close()
    assert refusals.about(key)["status"] == 403
    assert httpx.put(f"{good.endpoint}/starloom-inbox/{key}", content=b"x").status_code == 403
    assert httpx.get(f"{good.endpoint}/starloom-inbox").status_code == 403
    assert s3.stat(key) is None


def test_a_node_stays_in_its_own_place(s3: S3Lake, holder: Holder, refusals: Any, node: str) -> None:
    """What else it may not do stands in tests/lake/test_seaweed.py."""
    lake = holder(node_grant(node, "starloom"))
    foreign = f"inbox/{node}-other/20250101/a.fits"
    denied(lambda: lake.put_bytes(b"x", foreign))
    told = refusals.about(foreign)
    assert (told["requester"], told["operation"], told["error_code"]) == (
        f"node-{node}",
        "REST.PUT.OBJECT",
        "AccessDenied",
    )
    denied(lambda: list(lake.list(f"inbox/{node}-other/")))
    assert refusals.about("starloom-inbox/")["requester"] == f"node-{node}"
    assert s3.stat(foreign) is None


def test_a_reader_reads_what_is_published_and_nothing_else(s3: S3Lake, holder: Holder, node: str) -> None:
    lake = holder(reader_grant(f"team-{node}", "starloom"))
    raw, stack = RAW.format(node=node), f"stacks/{node}/r1/e1/V_p0.fits"
    private = (f"quarantine/{node}/{'cd' * 32}/x", f"receipts/{node}/x.json", f"inbox/{node}/20250101/x")
    for key in (raw, stack, *private):
        s3.put_bytes(b"pixels", key)
    assert lake.get_bytes(raw, max_bytes=9) == lake.get_bytes(stack, max_bytes=9) == b"pixels"
    assert [item.key for item in lake.list(f"raw/{node}/")] == [raw]
    assert [item.key for item in lake.list(f"stacks/{node}/")] == [stack]
    for key in private:
        denied(lambda key=key: lake.get_bytes(key, max_bytes=9))
        denied(lambda key=key: list(lake.list(key.rsplit("/", 1)[0] + "/")))
    for key in (raw, stack, *private):
        denied(lambda key=key: lake.put_bytes(b"x", key))
        denied(lambda key=key: lake.delete(key))
    denied(lambda: lake.copy(raw, stack))
    denied(lake.prepare)
    assert s3.get_bytes(stack, max_bytes=9) == b"pixels"


def test_a_worker_does_its_work_and_deletes_no_raw_frame(s3: S3Lake, holder: Holder, node: str) -> None:
    lake = holder(worker_grant(node, "starloom"))
    raw, incoming = RAW.format(node=node), f"inbox/{node}/20250101/x"
    s3.put_bytes(b"pixels", incoming)
    # What ingest, the steps, a stack and `tidy` do.
    assert [item.key for item in lake.list(f"inbox/{node}/")] == [incoming]
    assert lake.get_bytes(incoming, max_bytes=9) == b"pixels"
    version = lake.put_bytes(b"pixels", raw, if_absent=True).version
    lake.copy(incoming, f"quarantine/{node}/{'cd' * 32}/x")
    lake.delete(incoming)
    product = f"solved/{node}/20250101/f/1.fits.fz"
    lake.put_bytes(b"solved", product)
    assert lake.read_range(product, 0, 3) == b"sol"
    lake.delete(product)
    assert lake.stat(product) is None
    lake.abort_stale_uploads(86400.0)
    lake.ping()
    # What only the hub's own key does, and what nobody does.
    denied(lambda: lake.delete(raw))
    denied(lambda: lake.delete(f"quarantine/{node}/{'cd' * 32}/x"))
    soon = Retention(GOVERNANCE, datetime.now(UTC) + timedelta(seconds=60))
    for act in (
        lambda: lake._client.remove_object("starloom-raw", raw, version_id=version),
        lambda: lake._client.set_object_retention("starloom-raw", raw, soon, version_id=version),
        lambda: lake._client.delete_object_lock_config("starloom-raw"),
        lambda: lake._client.remove_bucket("starloom-raw"),
        lambda: lake._client.set_bucket_policy("starloom-raw", "{}"),
        lambda: lake._client.make_bucket("theirs"),
    ):
        with pytest.raises(S3Error) as caught:
            pytest.fail(f"a worker may: {act()!r}")
        assert caught.value.code in {"AccessDenied", "MethodNotAllowed"}
    lake.put_bytes(b"another", raw)  # a new version: who reads pins the one that the archive names
    assert s3.get_bytes(raw, max_bytes=9, version=version) == b"pixels"


def test_a_revoked_key_and_what_it_signed_are_void_at_once(
    seaweed: Any, s3: S3Lake, refusals: Any, node: str
) -> None:
    grant = node_grant(node, "starloom")
    lake = seaweed.server.lake(*seaweed.keys.give(grant))
    key = f"inbox/{node}/20250101/a.fits"
    signed = lake.presign_put(key, 3600)
    assert httpx.put(signed, content=b"x").status_code == 200
    assert grant.user in seaweed.keys.users()
    rotated = seaweed.server.lake(*seaweed.keys.give(grant))
    denied(lambda: lake.put_bytes(b"y", key))
    assert httpx.put(signed, content=b"y").status_code == 403
    assert refusals.about(key)["status"] == 403
    rotated.put_bytes(b"z", key)
    seaweed.keys.revoke(grant.user)
    denied(lambda: rotated.put_bytes(b"y", key))
    assert grant.user not in seaweed.keys.users()
    assert s3.get_bytes(key, max_bytes=9) == b"z"
    for each in (lake, rotated):
        each.close()


def test_a_signed_url_is_for_one_object_one_act_one_host_and_a_time(
    s3: S3Lake, holder: Holder, refusals: Any, node: str
) -> None:
    key, other = f"stacks/{node}/r1/e1/V_p0.fits", f"stacks/{node}/r1/e1/R_p0.fits"
    for each in (key, other):
        s3.put_bytes(b"pixels", each)
    url = s3.presign_get(key, 3600)
    # Replayed it reads the same object again, which is all that it can do.
    assert [httpx.get(url).text for _ in range(2)] == ["pixels"] * 2
    refused = {
        "another object": httpx.get(url.replace("V_p0", "R_p0")),
        "a longer life": httpx.get(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=604800")),
        "another host": httpx.get(url, headers={"Host": "elsewhere.example"}),
        "a write": httpx.put(url, content=b"x"),
        "a deletion": httpx.delete(url),
        "another signature": httpx.get(url[:-4] + "0000"),
        "the bucket": httpx.get(url.replace(f"/{key}", "")),
        "a way up": httpx.get(url.replace(key, f"stacks/{node}/../{node}/r1/e1/R_p0.fits")),
    }
    assert {what: answer.status_code for what, answer in refused.items()} == dict.fromkeys(refused, 403)
    # A node cannot sign what it may not do.
    lake = holder(node_grant(node, "starloom"))
    foreign = f"inbox/{node}x/20250101/a.fits"
    assert httpx.put(lake.presign_put(foreign, 3600), content=b"x").status_code == 403
    assert httpx.get(lake.presign_get(key, 3600)).status_code == 403
    assert refusals.about(foreign)["requester"] in (f"node-{node}", "")
    assert s3.stat(foreign) is None
    assert s3.get_bytes(key, max_bytes=9) == b"pixels"
    short = s3.presign_get(other, 1)
    time.sleep(2.1)
    assert httpx.get(short).status_code == 403
    assert refusals.about(other)["status"] == 403


def test_an_upload_url_replayed_changes_nothing_that_was_filed(s3: S3Lake, node: str) -> None:
    """Until it expires it writes its own inbox object again; raw frames are elsewhere, and pinned."""
    key, raw = f"inbox/{node}/20250101/a.fits", RAW.format(node=node)
    url = s3.presign_put(key, 3600)
    assert httpx.put(url, content=b"first").status_code == 200
    version = s3.put_bytes(b"first", raw, if_absent=True).version
    s3.delete(key)
    assert httpx.put(url, content=b"replayed").status_code == 200
    assert httpx.put(url.replace("/a.fits", "/b.fits"), content=b"x").status_code == 403
    assert s3.get_bytes(raw, max_bytes=9, version=version) == b"first"
    assert [item.key for item in s3.list(f"inbox/{node}/")] == [key]
