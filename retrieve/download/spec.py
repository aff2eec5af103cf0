"""What a recipe says of fetching pictures: the `download:` part. None of it decides which pictures are candidates."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from retrieve.download.address import Allowed, allowed_hosts
from shards.disk.address import BESIDE, LocalPath
from shards.disk.pictures import MAX_PICTURE_BYTES


class DownloadSpec(BaseModel):
    """Used where a pool has addresses and no images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(32, ge=1, le=1024, description="requests at once, of each process")
    processes: int = Field(1, ge=1, le=64, description="of img2dataset, of each worker; one core each")
    timeout_s: float = Field(20.0, gt=0, le=600, description="for one answer, from the first byte to the last")
    retries: int = Field(
        0, ge=0, le=5, description="tries after the first, of the same address at once; the next candidate comes anyway"
    )
    most_bytes: int = Field(16 << 20, ge=1024, le=MAX_PICTURE_BYTES, description="of one picture; more is cut off")
    user_agent_token: str = Field(
        "img2dataset",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$",
        description="name that sites may address in X-Robots-Tag, such as `img2dataset: noai`",
    )
    allow_hosts: tuple[str, ...] = Field(
        default=(),
        description="HOST or HOST:PORT that may be fetched from though its address is private, such as a mirror",
        examples=[["mirror.cluster.lan:8080"]],
    )
    program: Annotated[LocalPath, BESIDE] | None = Field(
        None,
        description="img2dataset; null = the one that `make tools` made",
        examples=["/opt/img2dataset/bin/img2dataset"],
    )

    @field_validator("allow_hosts")
    @classmethod
    def _hosts_are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        allowed_hosts(value)
        return value

    @property
    def allowed(self) -> Allowed:
        """`allow_hosts`, read."""
        return allowed_hosts(self.allow_hosts)
