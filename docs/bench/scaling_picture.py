"""The picture of docs/SCALING.md: real beside simulated, ratios against GPUs and unit size, where the GPUs' time goes.

In: the rows of docs/data/scaling.json, by part. Out: nothing. On disk: a PNG.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = ("#3b6fd8", "#c2571a", "#2f855a", "#8a4fbf", "#b8860b")
PARTS = (
    ("making", "making images", "#3b6fd8"),
    ("starting", "starting", "#c2571a"),
    ("storing", "writing", "#8a4fbf"),
    ("hearing", "driver", "#b8860b"),
    ("lost", "lost", "#c02942"),
    ("doubled", "done twice", "#7a7a7a"),
    ("waiting", "waiting", "#d5d5d5"),
)


def draw(parts: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Four panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7.6), layout="constrained")
    _draw_real(panels[0, 0], parts["real"])
    _draw_ratio(panels[0, 1], parts["large"])
    _draw_units(panels[1, 0], parts["units"])
    _draw_shares(panels[1, 1], parts["large"])
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _draw_real(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    top = 1.1 * max(max(row["real_s"], row["simulated_s"]) for row in rows)
    panel.fill_between([0, top], [0, 0.9 * top], [0, 1.1 * top], color="0.92", linewidth=0, label="10 %")
    panel.plot([0, top], [0, top], color="0.6", linewidth=1)
    for number, what in enumerate(dict.fromkeys(row["what"] for row in rows)):
        own = [row for row in rows if row["what"] == what]
        at = [row["real_s"] for row in own]
        color = COLORS[number] if number < len(COLORS) else "black"
        panel.plot(at, [row["simulated_s"] for row in own], "o", color=color, label=what, markersize=5)
    low = 0.85 * min(min(row["real_s"], row["simulated_s"]) for row in rows)
    panel.set(title="Real runs of two workers, and simulated ones", xlabel="real makespan, s", ylabel="simulated, s")
    panel.set(xlim=(low, top), ylim=(low, top))
    panel.legend(frameon=False, fontsize=7, loc="upper left")


def _draw_ratio(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for number, images in enumerate(dict.fromkeys(row["setting"]["images"] for row in rows)):
        own = [row for row in rows if row["setting"]["images"] == images]
        label = f"{images / 1e6:,.4g} M images, units of {own[0]['setting']['unit']:,}"
        panel.plot(
            [row["setting"]["gpus"] for row in own],
            [row["ratio"] for row in own],
            "o-",
            color=COLORS[number],
            label=label,
        )
    _against_gpus(panel, sorted({row["setting"]["gpus"] for row in rows}))
    panel.set(title="Makespan against GPUs", ylabel="makespan / ideal", yscale="log")
    _plain_ratios(panel)
    panel.legend(frameon=False, fontsize=8)


def _draw_units(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    images = rows[0]["setting"]["images"]
    own = [row for row in rows if row["setting"]["images"] == images]
    for number, gpus in enumerate(dict.fromkeys(row["setting"]["gpus"] for row in own)):
        of = sorted((row["setting"]["unit"], row["ratio"]) for row in own if row["setting"]["gpus"] == gpus)
        panel.plot([unit for unit, _ in of], [one for _, one in of], "o-", color=COLORS[number], label=f"{gpus:,} GPUs")
    units = sorted({row["setting"]["unit"] for row in own})
    panel.set(xscale="log", yscale="log", xlabel="images of a unit", ylabel="makespan / ideal")
    panel.set(title=f"Makespan against unit size, {images / 1e6:,.3g} M images")
    panel.set_xticks(units, [f"{unit:,}" for unit in units])
    panel.minorticks_off()
    _plain_ratios(panel)
    panel.legend(frameon=False, fontsize=8)


def _draw_shares(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    images = sorted({row["setting"]["images"] for row in rows})
    middle = images[len(images) // 2]
    own = [row for row in rows if row["setting"]["images"] == middle]
    at, below = list(range(len(own))), [0.0] * len(own)
    for name, label, color in PARTS:
        heights = [100 * row["shares"][name] for row in own]
        panel.bar(at, heights, 0.7, bottom=below, color=color, label=label)
        below = [low + one for low, one in zip(below, heights, strict=True)]
    panel.set_xticks(at, [f"{row['setting']['gpus']:,}" for row in own])
    panel.set(title=f"What the GPUs do, {middle / 1e6:,.3g} M images", xlabel="GPUs", ylabel="% of their time")
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _against_gpus(panel: Any, gpus: Sequence[int]) -> None:
    panel.set(xscale="log", xlabel="GPUs")
    panel.set_xticks(gpus, [f"{one:,}" for one in gpus])
    panel.minorticks_off()


def _plain_ratios(panel: Any) -> None:
    top = panel.get_ylim()[1]
    ticks = [one for one in (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50) if one <= top]
    panel.set_yticks(ticks, [f"{one:g}" for one in ticks])
    panel.minorticks_off()
