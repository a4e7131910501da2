"""Charts as PNG files: their size, whole or not at all, and what is said where they cannot be drawn."""

import struct
import sys

import pytest

from server.cli.jobs.chart import Chart, ChartsUnavailable, ChartUnwritable, Series, draw_chart, require_charts

LINES = Chart(
    "Distilling a", "step", "loss in nats", [Series([(1, 3.5), (2, 3.0)], label="a"), Series([(1, 2), (2, 1)])]
)
DOTS = Chart("Size and quality", "size in MB", "perplexity on $x", [Series([(5, 9), (5, 9)], names=["$a_{", "b_$c$"])])


@pytest.mark.parametrize("chart", [LINES, DOTS])
def test_a_chart_is_a_png_of_a_fixed_size(tmp_path, chart):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    require_charts(path)
    draw_chart(path, chart)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1200, 720)
    assert list(tmp_path.iterdir()) == [path]


def test_a_chart_that_cannot_be_written_leaves_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "chart.png").mkdir()
    with pytest.raises(ChartUnwritable, match=r"chart\.png"):
        draw_chart(tmp_path / "chart.png", LINES)
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]


@pytest.mark.parametrize(
    ("name", "words"), [("chart.svg", "does not end in .png"), ("nowhere/chart.png", "no such folder")]
)
def test_a_name_that_will_not_do_is_refused_before_the_work(tmp_path, name, words):
    with pytest.raises(ChartUnwritable, match=words):
        require_charts(tmp_path / name)


def test_without_matplotlib_the_command_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ChartsUnavailable, match=r"pip install 'bramley\[charts\]'"):
        require_charts(tmp_path / "chart.png")
    require_charts(None)
