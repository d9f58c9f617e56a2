"""`loss.png`: the course of a run's losses, from its `metrics.jsonl`."""

import math
import warnings
from pathlib import Path

from .labels import label
from .records import SOURCE_LOSS, read_records

CURVE = "loss.png"
"""The picture's name beside a checkpoint."""

# Paul Tol's "muted" palette (https://sronpersonalpages.nl/~pault/), which colour-blind people can tell apart, without
# its pale sand. Black is the evaluation as a whole.
_COLOURS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#999933", "#AA4499", "#44AA99")
_MARKERS = "osD^vPX"
_MOST_SOURCES = 16
_LONG = 60
"""Training records from which on their running mean is drawn too."""


def draw(metrics: Path, png: Path) -> bool:
    """Draw training loss, evaluation loss and that of each source over the steps.

    Args:
        metrics: a run's `metrics.jsonl`: an object with `step` and `loss`, or `eval_loss` and `eval_loss/<source>`, a
            line. A last line that is not whole is passed over, as a killed process leaves it.
        png: where the picture goes; it is replaced in one step.

    Returns:
        Whether there was a training loss to draw; if not, no file is touched.
    """
    training, evaluation, sources = _read(metrics)
    if not training:
        return False

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    steps, losses = zip(*training, strict=True)
    long = len(training) >= _LONG
    axes.plot(
        steps,
        losses,
        color="#bbbbbb" if long else "#555555",
        linewidth=0.7 if long else 1.4,
        marker="." if len(training) < 3 else None,
        label="training",
    )
    if long:
        smoothed = _running_mean(losses, max(5, len(losses) // 40))
        axes.plot(steps, smoothed, color="#555555", linewidth=1.6, label="training, running mean")
    ends = []  # the last point of each labelled line: step, loss, text, colour
    shown = sorted(sources, key=lambda name: -sources[name][-1][1])[:_MOST_SOURCES]
    for number, name in enumerate(sorted(shown)):
        colour = _COLOURS[number % len(_COLOURS)]
        x, y = zip(*sources[name], strict=True)
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(x, y, color=colour, linewidth=1.1, marker=marker, markersize=4, markevery=_every(x))
        ends.append((x[-1], y[-1], label(name, 24), colour))
    if evaluation:
        x, y = zip(*evaluation, strict=True)
        axes.plot(x, y, color="black", linewidth=2.4, marker="o", markersize=5, markevery=_every(x), label="evaluation")
        ends.append((x[-1], y[-1], "evaluation", "black"))

    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title("Loss of training" + (" and evaluation" if evaluation else ""), loc="left", fontsize=11)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = _limits(losses, [loss for line in (evaluation, *sources.values()) for _, loss in line])
    axes.set_ylim(low, high)
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)
    _label_ends(axes, ends)
    if len(sources) > len(shown):
        note = f"{len(sources) - len(shown)} more sources, with lower losses, are in metrics.jsonl"
        axes.text(0.01, 0.01, note, transform=axes.transAxes, fontsize=8, color="#555555")

    partial = png.with_name(f".{png.name}.partial")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
            figure.savefig(partial, format="png", metadata={"Software": None})
        partial.replace(png)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _read(metrics: Path) -> tuple[list, list, dict[str, list]]:
    """The finite losses as (step, loss): of training, of evaluation, and of evaluation by source."""
    training, evaluation, sources = [], [], {}
    for record in read_records(metrics):
        for key, value in record.items():
            if key == "loss":
                found = training
            elif key == "eval_loss":
                found = evaluation
            elif key.startswith(SOURCE_LOSS):
                found = sources.setdefault(key[len(SOURCE_LOSS) :], [])
            else:
                continue
            if value is not None and math.isfinite(value):
                found.append((record["step"], value))
    return training, evaluation, {name: line for name, line in sources.items() if line}


def _running_mean(values, width: int):
    """The mean of the `width` values around each; fewer at the ends. Shape as `values`."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _every(steps) -> int:
    """Between how many points there is a marker: about 25 in all."""
    return max(1, len(steps) // 25)


def _limits(training, evaluation: list[float]) -> tuple[float, float]:
    """Where the axis of losses begins and ends; a few outliers among many training records do not count."""
    import numpy as np

    usual = np.percentile(training, (0.5, 99.5)) if len(training) >= 400 else (min(training), max(training))
    low, high = min(usual[0], *evaluation, usual[1]), max(usual[1], *evaluation, usual[0])
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _label_ends(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name to the right of the axes, level with its end as far as the names do not touch."""
    if not ends:
        return
    from matplotlib.colors import to_rgb

    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    levels = _apart([end[1] for end in ends], 0.043 * (high - low), low, high)
    for (step, loss, text, colour), level in zip(ends, levels, strict=True):
        axes.annotate(
            f"{text}  {loss:.2f}",
            xy=(step, loss),
            xytext=(1.02, level),
            textcoords=("axes fraction", "data"),
            color=[0.65 * part for part in to_rgb(colour)],  # the light ones would be hard to read
            fontsize=9,
            fontweight="bold" if colour == "black" else None,
            va="center",
            annotation_clip=False,
            parse_math=False,  # a name may hold dollar signs
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def _apart(wanted: list[float], height: float, low: float, high: float) -> list[float]:
    """Levels as near to the `wanted` ones, which ascend, as can be with `height` between them and within the limits.

    Without the limits these are the least squares: names that touch become a block around their mean.
    """
    blocks: list[tuple[float, int]] = []  # of names that touch: the sum of where it should begin by each, and how many
    for number, level in enumerate(wanted):
        total, count = level - number * height, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before, more = blocks.pop()
            total, count = total + before, count + more
        blocks.append((total, count))
    begins = [total / count for total, count in blocks for _ in range(count)]
    most = high - (len(wanted) - 1) * height
    return [max(low, min(begin, most)) + number * height for number, begin in enumerate(begins)]
