"""What a run would cost on a site: hours, GPU-hours, money, from the rate of one worker.

In: images, a rate, a `SiteSpec`. Out: lines for people. On disk: nothing.
"""

from dataclasses import dataclass

from cluster.recipes.site import SiteSpec
from shards.disk.amounts import counted, time_text

MILLION = 1_000_000


@dataclass(frozen=True)
class Rate:
    """Images a second of one worker, and where that is known from."""

    images_per_s: float
    source: str


def workers_of(site: SiteSpec) -> tuple[int, str]:
    """How many workers a job has at most at the same time, and what they are."""
    if site.how == "array":
        number = min(site.tasks, site.most_at_once or site.tasks)
        return number, "GPU" if site.gpus_per_node else "core"
    if site.gpus_per_node:
        return site.nodes * site.gpus_per_node, "GPU"
    return site.nodes * (site.cpus_per_node or 1), "core"


def cost_lines(images: int, rate: Rate | None, site: SiteSpec) -> list[str]:
    """Hours and money for so many images; how to learn the rate where it is not known. Loading is not in it."""
    workers, noun = workers_of(site)
    if rate is None:
        return [
            f"time     unknown on {counted(workers, noun)}: nobody has told the rate of a worker; give "
            "--images-per-s, set expect.images_per_s in the recipe, or make a small scale there first"
        ]
    hours = images / rate.images_per_s / 3600
    lines = [
        f"rate     {rate.images_per_s:g} images/s a {noun}, {rate.source}",
        f"time     about {time_text(3600 * hours / workers)} on {counted(workers, noun)}, without loading and waiting",
        f"work     about {hours:,.1f} {noun}-hours, {MILLION / rate.images_per_s / 3600:,.1f} for a million images",
    ]
    if site.price_per_gpu_hour is not None and noun == "GPU":
        price = site.price_per_gpu_hour
        each = price * MILLION / rate.images_per_s / 3600
        lines.append(f"money    about {price * hours:,.0f} at {price:g} a GPU-hour, {each:,.0f} for a million images")
    return lines
