"""The picture of size against KLD."""

from collections.abc import Sequence
from pathlib import Path


def draw(path: Path, points: Sequence[tuple[str, int, float]], *, unquantized: tuple[str, int] | None) -> None:
    """Draw each type at its size and its mean KLD, on a logarithmic scale, into a PNG.

    Args:
        path: the picture.
        points: type, bytes, mean KLD in nats (above 0).
        unquantized: type and bytes of the file that they are compared with.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit, name = (1e9, "GB") if max(size for _, size, _ in points) >= 1e9 else (1e6, "MB")
    ordered = sorted(points, key=lambda point: point[1])
    sizes, klds = [size / unit for _, size, _ in ordered], [kld for _, _, kld in ordered]
    axes.plot(sizes, klds, color="#2f6f4f", marker="o", linewidth=1)
    for (file_type, _, _), x, y in zip(ordered, sizes, klds, strict=True):
        axes.annotate(file_type, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=9)
    if unquantized is not None:
        file_type, size = unquantized
        axes.axvline(size / unit, color="#888888", linestyle=":", linewidth=1)
        axes.annotate(
            f"{file_type} (0)", (size / unit, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            xytext=(-4, -12), fontsize=9, ha="right", color="#666666",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.margins(y=0.2)
    axes.set_xlim(0, 1.18 * max([*sizes, (unquantized[1] / unit if unquantized else 0)]))
    axes.set_xlabel(f"size ({name})")
    axes.set_ylabel("mean KLD to the unquantized file (nats)")
    axes.grid(alpha=0.25, which="major")
    figure.savefig(path, dpi=150)
