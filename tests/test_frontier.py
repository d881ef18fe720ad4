"""The README's plot and tables are those of frontier.csv, and a wrong line in it is named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from stages.transfer import params
from stages.transfer.bench import frontier, measured
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT

HEADER = "point,px,cut,views,epochs,cutmix_share,label_smoothing,minutes,dev,val_accuracy,runs,note"
FASTEST = "fastest,80,block_6_project_BN,1,1,0,0,1,0.9,0.89,1,"
DEFAULT = "default,112,block_6_add,4,4,0,0,10,0.91,0.92,3,"
ATTEMPT = "attempt,96,block_5_add,4,6,0.5,0.1,100,0.915,,1,no dropout"
UNTIMED = "attempt,96,block_5_add,4,4,0,0,,0.901,,1,at half the rate"
SVG = "{http://www.w3.org/2000/svg}"
SAID = "make frontier, and put its tables into the README"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "frontier.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def drawn(folder: Path, *lines: str, gate: float = 0.87) -> bytes:
    frontier.draw(measured.read(write(folder, *lines)), gate, folder / "plot.svg")
    return (folder / "plot.svg").read_bytes()


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_the_readme_has_these_tables_and_this_plot(tmp_path: Path) -> None:
    readme = (PROJECT / "README.md").read_text()
    runs = measured.read()
    for table in frontier.tables(runs):
        assert f"\n\n{table}\n\n" in readme, SAID
    assert f"]({frontier.PLOT})" in readme
    gate = params.load(PROJECT / params.PARAMS).gate.minimum
    # A user's own settings of matplotlib are none of the plot's.
    with mpl.rc_context({"figure.facecolor": "black", "lines.markersize": 20}):
        frontier.draw(runs, gate, tmp_path / "plot.svg")
    committed = (PROJECT / frontier.PLOT).read_bytes()
    assert (tmp_path / "plot.svg").read_bytes() == committed, SAID
    assert {run.point for run in runs if run.minutes} - {measured.ATTEMPT} <= set(texts(committed))


def test_the_command_draws_and_prints(tmp_path: Path) -> None:
    shutil.copy(PROJECT / params.PARAMS, tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "stages.transfer.bench.frontier"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "\n\n".join(frontier.tables(measured.read())) + "\n"
    assert len(result.stderr.strip().splitlines()) == 1
    committed = (PROJECT / frontier.PLOT).read_bytes()
    assert (tmp_path / frontier.PLOT).read_bytes() == committed, SAID


def test_the_plot_holds_nothing_of_when_and_with_what_it_was_drawn(tmp_path: Path) -> None:
    svg = drawn(tmp_path, FASTEST, DEFAULT, ATTEMPT)
    assert b"dc:date" not in svg
    assert b"matplotlib.org" not in svg
    assert b"http://" not in svg.split(b"</metadata>")[1]
    assert len(svg) < 20_000
    # Each dot of 500 attempts is one element.
    many = [ATTEMPT.replace(",100,", f",{minutes},") for minutes in range(2, 502)]
    assert len(drawn(tmp_path, FASTEST, *many)) < 100_000


def test_the_axis_is_logarithmic_and_points_stand_where_they_were_measured(tmp_path: Path) -> None:
    svg = drawn(tmp_path, FASTEST, DEFAULT, ATTEMPT)
    assert texts(svg).count("fastest") == texts(svg).count("default") == 1
    assert "attempt" not in texts(svg)
    assert "gate 0.87" in texts(svg)
    assert "gate 0.5" in texts(drawn(tmp_path, FASTEST, gate=0.5))
    places = [
        (float(use.attrib["x"]), -float(use.attrib["y"]))
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")  # noqa: S314 - our own
        if "clip-path" in group.attrib
        for use in group.iter(f"{SVG}use")
    ]
    # In the order of drawing: attempts, points on dev, points on the test images.
    (attempt_x, _), *dev, fastest, default = places
    assert [x for x, _ in dev] == [fastest[0], default[0]]
    assert attempt_x - default[0] == pytest.approx(default[0] - fastest[0])  # 1, 10, 100 minutes
    height = (default[1] - fastest[1]) / (0.92 - 0.89)
    assert height > 0
    expected = [0.915, 0.9, 0.91, 0.89, 0.92]
    assert [0.89 + (y - fastest[1]) / height for _, y in places] == pytest.approx(expected)


def test_what_has_no_minutes_or_no_accuracy_is_in_the_table_alone(tmp_path: Path) -> None:
    svg = drawn(tmp_path, FASTEST, ATTEMPT)
    untried = DEFAULT.replace(",10,0.91,0.92,", ",,,,")
    unmeasured = ATTEMPT.replace("100,0.915", "900,")
    assert drawn(tmp_path, UNTIMED, unmeasured, untried, ATTEMPT, FASTEST) == svg
    assert drawn(tmp_path, FASTEST) != svg
    drawn(tmp_path, UNTIMED)  # nothing to draw
    points, attempts = frontier.tables(
        measured.read(write(tmp_path, UNTIMED, untried, ATTEMPT, FASTEST))
    )
    assert points.splitlines()[2:] == [
        "| `fastest` | 80 | `block_6_project_BN` | 1, 1 | – | – | 1.0 | 0.900 | 0.8900 | 1 |",  # noqa: RUF001
        "| `default` | 112 | `block_6_add` | 4, 4 | – | – | – | – | – | 3 |",  # noqa: RUF001
    ]
    assert attempts.splitlines()[2:] == [
        "| 96 | `block_5_add` | 4, 6 | 0.5 | 0.1 | 100.0 | 0.915 | – | 1 | no dropout |",  # noqa: RUF001
        "| 96 | `block_5_add` | 4, 4 | – | – | – | 0.901 | – | 1 | at half the rate |",  # noqa: RUF001
    ]
    assert len(frontier.tables(measured.read(write(tmp_path, FASTEST)))) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (FASTEST.replace("fastest", "fast"), "line 3: point = 'fast': expected one of default,"),
        (DEFAULT, "line 3: default is there twice"),
        (FASTEST.replace("80", "96"), "line 3: px = 96, but points.yaml has 80 for fastest: meas"),
        (FASTEST.replace("1,1,", "1,3,"), "epochs = 3, but points.yaml has 1 for fastest"),
        (FASTEST.replace("1,1,", "3,1,"), "views = 3, but points.yaml has 1 for fastest"),
        (FASTEST.replace(",0,", ",0.5,"), "cutmix_share = 0.5, but points.yaml has 0.0"),
        (
            FASTEST.replace("6_project_BN", "5_add"),
            "cut = block_5_add, but points.yaml has block",
        ),
        (FASTEST.replace(",0,1,", ",0.1,1,"), "label_smoothing = 0.1, but points.yaml has 0.0"),
        (FASTEST.replace("0.89", "89"), "line 3: val_accuracy = '89': expected less than or eq"),
        (FASTEST.replace("0.9,", "nan,"), "line 3: dev = 'nan': expected"),
        (FASTEST.replace(",1,0.9", ",-1,0.9"), "line 3: minutes = '-1': expected greater than 0"),
        (FASTEST.replace(",1,0.9", ",inf,0.9"), "line 3: minutes = 'inf': expected a finite"),
        (FASTEST.replace(",1,0.9", ",4 min,0.9"), "line 3: minutes = '4 min': expected a valid"),
        (FASTEST.replace(",80,", ",,"), "line 3: px = '': expected a valid integer"),
        (FASTEST.replace("0.89,1", "0.89,"), "line 3: runs = '': expected a valid integer"),
        (f"{FASTEST}one, two", "line 3: expected 12 fields; quote one with a comma"),
        ("fastest,80", "line 3: expected 12 fields"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, DEFAULT, line)
    with pytest.raises(PipelineError) as raised:
        measured.read(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_setting_that_the_file_has_no_column_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "POINTS", tmp_path / "points.yaml")
    (tmp_path / "points.yaml").write_text("fastest:\n  train_head.images: 5000\n")
    with pytest.raises(PipelineError, match=r"^points.yaml: fastest names other settings than"):
        measured.read(write(tmp_path, FASTEST))


def test_other_columns_and_another_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "frontier.csv"
    for text in ("", HEADER.replace("minutes", "seconds"), HEADER + ",more"):
        path.write_text(text)
        with pytest.raises(PipelineError, match="expected the columns point,px,"):
            measured.read(path)
    path.write_bytes(f"{HEADER}\n{ATTEMPT} \xfc".encode("latin-1"))
    with pytest.raises(PipelineError, match="expected UTF-8"):
        measured.read(path)
    path.write_bytes(f"{HEADER}\r\n{ATTEMPT}\r\n\r\n".encode("utf-8-sig"))  # as spreadsheets write
    assert len(measured.read(path)) == 1
