"""Draw a chart with two axes as a PNG: lines, or dots with names. Knows nothing of what they mean.

Drawn twice as large and scaled down, which makes edges smooth. Pillow is optional and imported when a chart is drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from server.store.errors import StoreError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

Point = tuple[float, float]

_SCALE = 2
_WIDTH, _HEIGHT = 1200, 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 50, 90, 90
_INK, _FAINT, _GRID = "#24292f", "#6e7781", "#e4e8ec"
_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#1b7c83", "#57606a")
_NUM_TICKS = 6


class ChartsUnavailable(StoreError):
    """Pillow is not installed."""

    def __init__(self) -> None:
        super().__init__("a chart needs Pillow: pip install pillow, or leave the chart out")


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
    """What is drawn."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places: `start` is where `low` is, `end` where `high` is."""

    low: float
    high: float
    start: int
    end: int
    ticks: Sequence[float] = field(default_factory=tuple)

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def require_charts(path: Path | None) -> None:
    """Raise ChartsUnavailable and ChartUnwritable before the work, not after it. None asks for no chart."""
    if path is None:
        return
    if find_spec("PIL") is None:
        raise ChartsUnavailable
    if path.suffix.lower() != ".png":
        raise ChartUnwritable(path.name, "its name does not end in .png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ChartUnwritable(path.name, "there is no such folder, or the name is a folder's")


def draw_chart(path: Path, chart: Chart) -> None:
    """Write the chart as a PNG, whole or not at all. Raises ChartsUnavailable and ChartUnwritable."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415  # optional, see above
    except ImportError:
        raise ChartsUnavailable from None
    image = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), "white")
    _draw(ImageDraw.Draw(image), chart, lambda size: ImageFont.load_default(size * _SCALE))
    small = image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
    partial = path.with_name(f".{path.name}.partial")
    try:
        small.save(partial, "PNG")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ChartUnwritable(path.name, error.strerror or "cannot be written") from None


def _draw(draw: "ImageDraw", chart: Chart, font: "Callable[[int], Font]") -> None:
    points = [point for series in chart.series for point in series.points]
    has_names = any(series.names for series in chart.series)
    x = _axis([point[0] for point in points], _LEFT, _WIDTH - _RIGHT, padded=has_names)
    y = _axis([point[1] for point in points], _HEIGHT - _BOTTOM, _TOP, padded=True)
    _draw_frame(draw, chart, x, y, font)
    for number, series in enumerate(chart.series):
        if series.names:
            _draw_dots(draw, series, x, y, font(19))
        else:
            places = [_scaled(x.place(point[0]), y.place(point[1])) for point in series.points]
            draw.line(places, fill=_COLOURS[number % len(_COLOURS)], width=3 * _SCALE, joint="curve")
    labels = [series.label for series in chart.series if series.label]
    for number, label in enumerate(labels):
        top = _TOP + 14 + 28 * number
        colour = _COLOURS[number % len(_COLOURS)]
        draw.line([_scaled(_WIDTH - 300, top), _scaled(_WIDTH - 264, top)], fill=colour, width=4 * _SCALE)
        draw.text(_scaled(_WIDTH - 254, top), label, fill=_INK, font=font(19), anchor="lm")


def _draw_frame(draw: "ImageDraw", chart: Chart, x: _Axis, y: _Axis, font: "Callable[[int], Font]") -> None:
    draw.text(_scaled(_LEFT, _TOP / 2), chart.title, fill=_INK, font=font(26), anchor="lm")
    for tick in y.ticks:
        height = y.place(tick)
        draw.line([_scaled(_LEFT, height), _scaled(_WIDTH - _RIGHT, height)], fill=_GRID, width=_SCALE)
        draw.text(_scaled(_LEFT - 12, height), _number(tick), fill=_FAINT, font=font(18), anchor="rm")
    for tick in x.ticks:
        place = x.place(tick)
        draw.line([_scaled(place, _TOP), _scaled(place, _HEIGHT - _BOTTOM)], fill=_GRID, width=_SCALE)
        draw.text(_scaled(place, _HEIGHT - _BOTTOM + 12), _number(tick), fill=_FAINT, font=font(18), anchor="mt")
    floor = _HEIGHT - _BOTTOM
    draw.line([_scaled(_LEFT, floor), _scaled(_WIDTH - _RIGHT, floor)], fill=_FAINT, width=2 * _SCALE)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    draw.text(_scaled(middle, _HEIGHT - 32), chart.x_label, fill=_INK, font=font(20), anchor="mm")
    draw.text(_scaled(_LEFT, _TOP - 16), chart.y_label, fill=_FAINT, font=font(18), anchor="lm")


def _draw_dots(draw: "ImageDraw", series: Series, x: _Axis, y: _Axis, font: "Font") -> None:
    for number, (point, name) in enumerate(zip(series.points, series.names, strict=True)):
        across, up = x.place(point[0]), y.place(point[1])
        colour = _COLOURS[number % len(_COLOURS)]
        draw.ellipse([_scaled(across - 8, up - 8), _scaled(across + 8, up + 8)], fill=colour)
        on_the_right = across < (_LEFT + _WIDTH - _RIGHT) / 2
        anchor, gap = ("lm", 14) if on_the_right else ("rm", -14)
        draw.text(_scaled(across + gap, up), name, fill=_INK, font=font, anchor=anchor)


def _axis(values: Sequence[float], start: int, end: int, *, padded: bool) -> _Axis:
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    step = _step(spread * (1.3 if padded else 1.0))
    if padded:
        low, high = low - 0.15 * spread, high + 0.15 * spread
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        low = max(low, 0.0) if min(values) >= 0 else low
    if high == low:
        high = low + step
    first = math.ceil(low / step - 1e-9)
    ticks = [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return _Axis(low, high, start, end, ticks)


def _step(spread: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that gives enough ticks."""
    rough = spread / _NUM_TICKS
    power: float = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _scaled(x: float, y: float) -> Point:
    return x * _SCALE, y * _SCALE
