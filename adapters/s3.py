"""A bucket of a store that speaks S3: every request bounded in time, every failure one exception with one line."""

from __future__ import annotations

from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from adapters.errors import TallyError

TIMEOUT_S: Final = 10
ABSENT: Final = 404
NO_BUCKET: Final = "NoSuchBucket"
#: Another object than the named one is there (412), or somebody is writing it just now (409).
TAKEN: Final = frozenset({409, 412})


class StoreFailed(TallyError):
    """The store did not do what was asked; asked again later. `status` and `code` are those of its answer, if any."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Bucket:
    """One bucket; credentials and region are boto3's own. Threads may share it."""

    def __init__(self, name: str, endpoint: str, *, connections: int = 1) -> None:
        """An empty `endpoint` is that of AWS."""
        self.name = name
        options = Config(
            connect_timeout=TIMEOUT_S,
            read_timeout=TIMEOUT_S,
            retries={"max_attempts": 2},
            max_pool_connections=connections,
        )
        try:
            self._client: Any = boto3.client("s3", endpoint_url=endpoint or None, config=options)
        except (BotoCoreError, ValueError) as err:
            raise StoreFailed(f"s3://{name}: {err}") from err

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, method: str, **options: Any) -> dict[str, Any]:
        """The answer to one request; raises `StoreFailed`."""
        try:
            answer: dict[str, Any] = getattr(self._client, method)(Bucket=self.name, **options)
        except ClientError as err:
            status = int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = err.response.get("Error", {}).get("Code", "")
            raise StoreFailed(f"s3://{self.name}: {err}", status, code) from err
        except BotoCoreError as err:
            raise StoreFailed(f"s3://{self.name}: {err}") from err
        return answer

    def body(self, place: str, found: dict[str, Any]) -> bytes:
        """The bytes that an answer of `get_object` brings; raises `StoreFailed`."""
        try:
            data: bytes = found["Body"].read()
        except (BotoCoreError, OSError) as err:
            raise StoreFailed(f"{place}: {err}") from err
        finally:
            found["Body"].close()
        return data
