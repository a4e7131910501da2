"""Draw a chart with two axes as a PNG: lines, or dots with names. Knows nothing of what they mean.

Matplotlib draws it. It is optional, and imported when a chart is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from server.store.errors import StoreError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

_INCHES = (12.0, 7.2)
_DOTS_PER_INCH = 100


class ChartsUnavailable(StoreError):
    """Matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("a chart needs matplotlib: pip install 'bramley[charts]', or leave the chart out")


class ChartUnwritable(StoreError):
    """The operating system refuses. `reason` is its own."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the chart {name} cannot be written ({reason})")


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together. With names it is dots, one name per dot; else a line called `label`."""

    points: Sequence[Point]
    label: str = ""
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """The lines of a chart and the words around them."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]


def require_charts(path: Path | None) -> None:
    """Raise ChartsUnavailable and ChartUnwritable before the work, not after it. None asks for no chart."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise ChartUnwritable(path.name, "its name does not end in .png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ChartUnwritable(path.name, "there is no such folder, or the name is a folder's")
    if find_spec("matplotlib") is None:
        raise ChartsUnavailable


def draw_chart(path: Path, chart: Chart) -> None:
    """Write the chart as a PNG, whole or not at all. Raises ChartsUnavailable and ChartUnwritable."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415  # optional, see above
        from matplotlib.figure import Figure  # noqa: PLC0415  # the same
    except ImportError:
        raise ChartsUnavailable from None
    # Names are text, whatever they hold: a dollar in one begins no formula.
    with rc_context({"text.parse_math": False, "font.size": 12}):
        figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        _draw(figure.add_subplot(), chart)
        _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ChartUnwritable(path.name, error.strerror or "cannot be written") from None


def _draw(axes: "Axes", chart: Chart) -> None:
    axes.set_title(chart.title, loc="left", fontsize=16, pad=12)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for series in chart.series:
        if series.names:
            _draw_dots(axes, series)
        else:
            axes.plot(*zip(*series.points, strict=True), label=series.label or None, linewidth=2)
    if any(series.label for series in chart.series):
        axes.legend(frameon=False)


def _draw_dots(axes: "Axes", series: Series) -> None:
    """Each dot has its own colour, and its name beside it on the side with more room."""
    axes.margins(0.15)
    middle = (min(x for x, _ in series.points) + max(x for x, _ in series.points)) / 2
    for (x, y), name in zip(series.points, series.names, strict=True):
        axes.plot(x, y, marker="o", markersize=10)
        side, gap = ("left", 10) if x <= middle else ("right", -10)
        axes.annotate(name, (x, y), (gap, 0), textcoords="offset points", ha=side, va="center")
