"""What a server counts and times, for Prometheus and as a few lines of text.

In: requests and steps. Out: text. On disk: nothing. Histograms have clip-retrieval's names, so that its dashboard reads
them; what it does not know begins with `sixfold_`.
"""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Step = Literal["full", "text", "image", "decode", "rows", "search", "dedup", "picture"]
STEPS: dict[Step, tuple[str, str]] = {
    "full": ("full_knn_request_time", "Time spent processing knn request"),
    "text": ("text_clip_inference_time", "Time spent doing a text clip inference"),
    "image": ("image_clip_inference_time", "Time spent doing a image clip inference"),
    "decode": ("image_prepro_time", "Time spent doing the image preprocessing"),
    "rows": ("metadata_get_time", "Time spent retrieving metadata"),
    "search": ("knn_index_time", "Time spent doing a knn on the index"),
    "dedup": ("dedup_time", "Time spent deduping"),
    "picture": ("sixfold_picture_time", "Time spent making a small picture"),
}
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Metrics:
    """Of one server; any thread may count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.times = {
            step: Histogram(name, about, buckets=BUCKETS, registry=self.registry)
            for step, (name, about) in STEPS.items()
        }
        self.requests = Counter(
            "sixfold_requests", "Requests by route and status", ("route", "status"), registry=self.registry
        )

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A number that is asked for when the metrics are."""
        Gauge(f"sixfold_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)

    def summary(self) -> str:
        """For people: how often each step was done, and how long it took in the mean."""
        full_num, full_s = self._of("full")
        if not full_num:
            return "No request yet, go do some\n"
        lines = [
            f"Among {full_num} calls to the knn end point with an average latency of {full_s / full_num:0.4f}s per "
            "request, the step costs are (in order):",
            "",
            f"{'name':<28}{'calls':>10}{'average':>12}{'proportion':>12}",
        ]
        found = [(STEPS[step][0], *self._of(step)) for step in STEPS if step not in ("full", "picture")]
        for name, num, total_s in sorted(found, key=lambda one: -one[2]):
            mean_s = total_s / num if num else 0.0
            lines.append(f"{name:<28}{num:>10,}{mean_s:>11.4f}s{100 * total_s / max(full_s, 1e-12):>11.1f}%")
        return "\n".join(lines) + "\n"

    def _of(self, step: Step) -> tuple[int, float]:
        """(calls, seconds of all together)."""
        (family,) = self.times[step].collect()
        values = {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
        return int(values["_count"]), values["_sum"]
