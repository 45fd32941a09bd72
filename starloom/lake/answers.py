"""What an S3 server's refusals and silences mean: from its clients' exceptions to ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import aiohttp
import botocore.exceptions
import urllib3.exceptions
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from starloom.errors import BadInput, StarloomError, Unavailable
from starloom.lake.base import DiskFull, LakeDenied, ObjectMissing, key_exists

MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404", "ResourceNotFound", "MethodNotAllowed"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "403",
    }
)
_EXISTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "507"})
_BUSY = frozenset(
    {
        "InternalError",
        "ServiceUnavailable",
        "SlowDown",
        "RequestTimeout",
        "OperationAborted",
        "500",
        "502",
        "503",
        "504",
    }
)


def explain(code: str, message: str, key: str) -> StarloomError:
    """Return our error for an S3 error code about a key (or bucket)."""
    if code in MISSING:
        return ObjectMissing(f"{key}: there is no such object in the lake")
    if code in _NO_BUCKET:
        return StarloomError(
            f"{key}: the lake has no bucket for it",
            code="lake-not-prepared",
            hint="`starloom up` creates the buckets; check STARLOOM_LAKE_URL if they should be there.",
        )
    if code == "InvalidObjectState":
        return StarloomError(
            f"{key} lies in a storage class that has to be thawed before it is read",
            code="object-frozen",
            hint="Restore it in the store, then `starloom frames requeue`; STARLOOM_LAKE_COLD_CLASS should name a "
            "class that answers at once.",
        )
    if code == "RequestTimeTooSkewed":
        return LakeDenied(
            f"{key}: the lake refuses ({code}): {message}", hint="This machine's clock is wrong: set it (NTP)."
        )
    if code in _DENIED:
        return LakeDenied(f"{key}: the lake refuses ({code}): {message}")
    if code in _EXISTS:
        return key_exists(key)
    if code in _FULL:
        return DiskFull(f"{key}: {message}")
    if code in _BUSY:
        # SeaweedFS 4.48 says InternalError when its disk is full, too, and no more than that.
        return Unavailable(
            f"{key}: the lake answers {code}: {message}",
            code="lake-unavailable",
            hint="Try again later; if it goes on, look whether the lake's disk is full, and at its log.",
        )
    return StarloomError(
        f"{key}: the lake answers {code}: {message}",
        code="lake-refused",
        hint="Not a refusal we know; the server's log says more.",
    )


@contextmanager
def explained(key: str) -> Iterator[None]:
    """Turn what minio, s3fs and the connection raise within the block into our errors."""
    try:
        yield
    except S3Error as error:
        raise explain(error.code or "", error.message or "", key) from error
    except ServerError as error:
        code = "507" if error.status_code == 507 else "503"
        raise explain(code, str(error), key) from error
    except InvalidResponseError as error:
        # A proxy in front of the server, or no S3 server at all, answers in HTML.
        if "Response code: 507" in str(error):
            raise explain("507", str(error), key) from error
        raise Unavailable(
            f"{key}: what answers there is no S3 server, or a broken one: {error}",
            code="lake-unavailable",
            hint="Check STARLOOM_LAKE_ENDPOINT: it must be the S3 API, not a console or another service.",
        ) from error
    except MinioException as error:
        raise Unavailable(f"{key}: {error}", code="lake-unavailable") from error
    except ElementTree.ParseError as error:
        raise Unavailable(
            f"{key}: the lake's answer is no XML: {error}",
            code="lake-unavailable",
            hint="Check STARLOOM_LAKE_ENDPOINT: it must be the S3 API, not a console or another service.",
        ) from error
    except (urllib3.exceptions.HTTPError, botocore.exceptions.BotoCoreError, aiohttp.ClientError) as error:
        raise Unavailable(
            f"{key}: the lake does not answer: {error}",
            code="lake-unavailable",
            hint="Does this machine reach STARLOOM_LAKE_ENDPOINT (name, firewall, certificate), and is it up?",
        ) from error
    except OSError as error:
        raise _from_s3fs(error, key) from error
    except ValueError as error:
        # minio checks bucket names, expiry times and the like by ValueError.
        raise BadInput(f"{key}: {error}", code="bad-key") from error


def _from_s3fs(error: OSError, key: str) -> StarloomError:
    """s3fs speaks in OSErrors; the server's own word is in the cause, where there is one."""
    code = error_code(error)
    if code is not None:
        return explain(code, str(error), key)
    if isinstance(error, FileNotFoundError):
        return explain("NoSuchKey", "", key)
    if isinstance(error, PermissionError):
        return explain("AccessDenied", str(error), key)
    return Unavailable(f"{key}: {error}", code="lake-unavailable")


def error_code(error: OSError) -> str | None:
    """Return the S3 error code behind an error of s3fs, if the server gave one."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None
    return str(response.get("Error", {}).get("Code", "")) or None
