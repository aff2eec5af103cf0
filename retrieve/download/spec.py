"""What a recipe says of fetching pictures: the `download:` part. None of it decides which pictures are candidates."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from retrieve.download.address import Allowed, allowed_hosts
from shards.disk.address import BESIDE, LocalPath
from shards.disk.pictures import MAX_PICTURE_BYTES
from shards.disk.safe_text import quoted


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
    proxy: str | None = Field(
        None,
        description="HOST:PORT of the site's http proxy, where nothing else leads out; null = none, whatever the "
        "environment says",
        examples=["proxy.cluster.lan:3128"],
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

    @model_validator(mode="after")
    def _proxy_has_a_port(self) -> "DownloadSpec":
        if self.proxy is not None and None in {port for _, port in allowed_hosts((self.proxy,), "download.proxy")}:
            raise ValueError(f"download.proxy: found no port in {quoted(self.proxy, 80)}, expected HOST:PORT")
        return self

    @property
    def proxy_place(self) -> tuple[str, int] | None:
        """`proxy`, read."""
        ((host, port),) = allowed_hosts((self.proxy,)) if self.proxy is not None else ((None, None),)
        return None if host is None or port is None else (host, port)

    @property
    def allowed(self) -> Allowed:
        """`allow_hosts`, read."""
        return allowed_hosts(self.allow_hosts)
