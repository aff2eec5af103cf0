"""What torchrun tells a rank in its environment; pure."""


def rank_environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Of rank `rank` of `world` on this machine, which meet at `port`."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
