"""The lake's address and keys as a Prefect block."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from starloom.lake import Lake, connect
from starloom.settings import Settings


class LakeCredentials(Block):
    """Address and keys of the object store."""

    _block_type_name = "Starloom Lake"
    _block_type_slug = "starloom-lake"
    _description = "Address and keys of the object store that holds frames and stacks."

    url: str = Field(description="s3://PREFIX or file:///folder")
    endpoint: str = Field(default="", description="S3 API as the hub's own processes reach it.")
    public_endpoint: str = Field(default="", description="The same store as browsers and nodes reach it.")
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")

    @classmethod
    def from_settings(cls, settings: Settings) -> LakeCredentials:
        """Return the block that the settings describe; not saved yet."""
        return cls(
            url=settings.lake_url,
            endpoint=settings.lake_endpoint,
            public_endpoint=settings.lake_public_endpoint,
            region=settings.lake_region,
            access_key=settings.lake_access_key,
            secret_key=settings.lake_secret_key,
        )

    def client(self) -> Lake:
        """Return the lake; nothing is contacted yet."""
        return connect(
            Settings(
                lake_url=self.url,
                lake_endpoint=self.endpoint,
                lake_public_endpoint=self.public_endpoint,
                lake_region=self.region,
                lake_access_key=self.access_key,
                lake_secret_key=self.secret_key,
            )
        )
