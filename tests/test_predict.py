"""predict.py: what is printed for photos and folders of them, and for what is neither."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

import predict
from stages import inference
from stages.errors import PipelineError
from stages.inference import fast
from tests.conftest import ALL, PROJECT, Project, one_line
from tests.drawn import CLASS_NAMES
from tests.test_photos import png_of

RED, GREEN = (255, 0, 0), (0, 255, 0)
NAMES = ["lorry", "sea lion", "wren", "lynx"]
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images of 20 x 40, of which red ones are a wren and green ones a lynx."""
    path = tmp_path_factory.mktemp("model") / "cifar10.h5"
    pixels = keras.Input((20, 40, 3))
    head = keras.layers.Dense(len(NAMES), "softmax")
    model = keras.Model(pixels, head(keras.layers.GlobalAveragePooling2D()(pixels)))
    head.set_weights([np.eye(3, len(NAMES), 2) / 50, np.zeros(len(NAMES))])
    model.compile("adam", "categorical_crossentropy", ["accuracy"])
    model.save(path)
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = json.dumps(NAMES)
        file.attrs["image_size"] = (20, 40)
    return path


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A folder of photos, beside predict.py and its model."""
    shutil.copy(model, tmp_path)
    shutil.copy(PROJECT / "predict.py", tmp_path)
    YAML().dump(ALL.model_dump(), tmp_path / "params.yaml")
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    Image.new("RGB", (40, 50), RED).save(photos / "1.JPG", "jpeg")
    (photos / "2.png").write_bytes((photos / "1.JPG").read_bytes()[:400])
    (photos / "notes.jpg").write_text("no image")
    (photos / ".DS_Store").touch()
    Image.new("RGB", (40, 50), GREEN).save(photos / "more/\xfc", "webp")
    return photos


def of_the_project(text: str) -> list[str]:
    """Return the lines that are not of TensorFlow's start."""
    return [line for line in text.splitlines() if not re.match(r"WARNING: All |[IW]\d{4} ", line)]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(folder.parent / "predict.py")
    environment["PYTHONPATH"] = str(PROJECT)
    return Project(folder, folder).run(sys.executable, script, *arguments, **environment)


@pytest.fixture
def main(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """`predict.main`, in the folder, without a start of TensorFlow."""
    monkeypatch.setattr(predict, "PROJECT", folder.parent)
    monkeypatch.chdir(folder)

    def main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
        return (predict.main(), *capsys.readouterr())

    return main


def test_what_can_be_read_is_classified(folder: Path) -> None:
    """And nothing of Pillow's and Keras's remarks is printed; here in ASCII."""
    (folder / "large.png").write_bytes(png_of(10_000, 10_000))
    done = run(folder, ".", PYTHONIOENCODING="ascii")
    first, second, note = done.stdout.splitlines()
    assert re.fullmatch(r"1\.JPG +wren     0\.9\d\d   (\S.{7} 0\.0\d\d(   )?){2}", first)
    assert re.fullmatch(r"more/\\xfc +lynx     0\.9\d\d   (\S.{7} 0\.0\d\d(   )?){2}", second)
    assert note == predict.NOTE
    assert of_the_project(done.stderr) == [
        "skipped: 2.png: Truncated File Read; expected an image",
        "skipped: large.png: image file is truncated (0 bytes not processed); expected an image",
        "skipped: notes.jpg: in no format that Pillow reads; expected an image",
    ]
    assert done.returncode == 0


def test_what_is_named_has_to_be_an_image(main: Main) -> None:
    status, out, err = main(".", "missing.jpg", "notes.jpg")
    assert [line.split(":")[:2] for line in err.splitlines()] == [
        ["skipped", " 2.png"],
        ["error", " notes.jpg"],
        ["error", " missing.jpg"],
    ]
    assert len(out.splitlines()) == 3
    assert status == 1


def test_json(main: Main) -> None:
    names = ["more/\xfc", "new\nline", "bytes\udcff", "\x1b[31m"]
    for name in names[1:]:
        shutil.copy("1.JPG", name)
    status, out, err = main("--json", *names)
    table = json.loads(out)
    assert [os.fsencode(path) for path in table] == list(map(os.fsencode, names))
    for path, probabilities in table.items():
        assert next(iter(probabilities)) == ("wren" if path in names[1:] else "lynx")
        assert set(probabilities) == set(NAMES)
        assert sum(probabilities.values()) == pytest.approx(1)
    assert (status, err) == (0, "")


def test_the_model_is_that_of_the_data_set_or_a_named_one(main: Main, folder: Path) -> None:
    """And photos are made square as its images were."""
    wide = np.tile(np.array(RED, np.uint8), (30, 90, 1))
    wide[:, 15:75] = GREEN  # what is cut out; of all of it a third is red
    Image.fromarray(wide).save("wide.png")
    padded = shutil.copy(folder.parent / "cifar10.h5", "padded.h5")
    with h5py.File(padded, "a") as file:
        file.attrs["aspect"] = "pad"

    def red(*arguments: str) -> float:
        return json.loads(main("--json", "wide.png", *arguments)[1])["wide.png"]["wren"]

    cut_out = red()
    assert red("--model", padded) > cut_out + 0.1
    settings = folder.parent / "params.yaml"
    settings.write_text(settings.read_text().replace("name: cifar10", "name: flowers"))
    with pytest.raises(PipelineError, match=r"/flowers\.h5 is missing; `make reproduce` makes it"):
        main("wide.png")
    (folder.parent / "cifar10.h5").rename(folder.parent / "flowers.h5")
    assert red() == cut_out


def test_names_that_are_no_text_are_escaped(main: Main) -> None:
    names = ["new\nline", "bytes\udcff", "\x1b[31m"]
    for name in names:
        shutil.copy("1.JPG", name)
    _, out, err = main(*names, "no\x1b[31m", "\udcff")
    assert [line.split("  ")[0] for line in out.splitlines()[:3]] == [
        "new\\nline",
        "bytes\\udcff",
        "\\x1b[31m",
    ]
    assert err.splitlines() == [
        f"error: {name}: No such file or directory; expected an image"
        for name in ("no\\x1b[31m", "\\udcff")
    ]


def test_each_batch_is_printed_before_the_next_is_read(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen by what is removed in the meantime."""
    printed: list[str] = []

    class Model:
        def __init__(self, *_: object) -> None: ...

        def predict_on_batch(self, x: np.ndarray) -> np.ndarray:
            assert x.shape[1:] == (20, 40, 3)
            printed.extend(capsys.readouterr())
            Path(f"{len(printed)}.jpg").unlink(missing_ok=True)
            return np.full((len(x), len(NAMES)), 0.25)

    for i in range(5):
        shutil.copy("1.JPG", f"{i}.jpg")
    monkeypatch.setattr(predict, "BATCH", 2)
    monkeypatch.setattr(predict, "load", Model)
    _, *last = main(*(f"{i}.jpg" for i in range(5)))
    words = [[line.split()[:2] for line in text.splitlines()] for text in (*printed, *last)]
    assert words == [
        *([], []),
        *([["0.jpg", "wren"], ["1.jpg", "wren"]], [["error:", "2.jpg:"]]),
        *([["3.jpg", "wren"], ["Images", "unlike"]], [["error:", "4.jpg:"]]),
    ]


def test_many_photos_are_classified_as_few_are(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    few = json.loads(main("--json", "1.JPG")[1])["1.JPG"]
    folding = Mock(wraps=fast)
    monkeypatch.setattr(inference, "fast", folding)
    monkeypatch.setattr(predict, "MANY", 2)
    main("1.JPG")
    assert folding.call_count == 0
    many = json.loads(main("--json", "1.JPG", "more")[1])
    assert folding.call_count == 1
    assert many["1.JPG"] == pytest.approx(few)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", "'': expected files or folders; standard input is not read"),
        ("-", "'-': expected files or folders; standard input is not read"),
        (
            "https://example.org/a.jpg",
            "https://example.org/a.jpg: a URL; expected a file, download it first",
        ),
        ("missing.jpg", "missing.jpg: No such file or directory; expected an image"),
        ("pipe", "pipe: a folder, pipe or device; expected an image"),
        ("empty", "empty: an empty folder; expected images in it"),
        ("a" * 300, "a" * 300 + ": File name too long; make it readable or leave it out"),
        ("/dev/zero", "/dev/zero: a folder, pipe or device; expected an image"),
    ],
)
def test_what_is_no_file_is_one_line_before_tensorflow_starts(
    argument: str, expected: str, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "load", None)
    Path("empty/.hidden").mkdir(parents=True)
    os.mkfifo("pipe")
    assert main(argument) == (1, "", f"error: {expected}\n")


def test_a_folder_without_an_image_is_an_error(main: Main) -> None:
    Path("texts").mkdir()
    shutil.copy("notes.jpg", "texts")
    with pytest.raises(PipelineError, match="no readable image in 1 files"):
        main("texts")


def test_a_model_that_cannot_be_used_is_one_line(folder: Path) -> None:
    assert "error: no image; expected" in one_line(run(folder))
    model = folder.parent / "cifar10.h5"
    with h5py.File(model, "a") as file:
        file.attrs.clear()
    lacks = f"{model} lacks class_names and image_size; run `make reproduce`"
    assert lacks in one_line(run(folder, "1.JPG"))
    model.write_bytes(b"")
    assert f"{model}: damaged" in one_line(run(folder, "1.JPG"))
    model.unlink()
    assert f"{model} is missing; `make reproduce` makes it" in one_line(run(folder, "1.JPG"))


def test_a_python_without_the_packages_is_one_line(folder: Path) -> None:
    command = (sys.executable, "-S", str(folder.parent / "predict.py"), "1.JPG")
    result = Project(folder, folder).run(*command, PYTHONPATH=str(PROJECT))
    assert "No module named 'numpy'; `source .venv/bin/activate` first" in one_line(result)


def test_output_that_is_not_taken_is_no_traceback(folder: Path) -> None:
    command = f'"{sys.executable}" ../predict.py . | true'
    result = Project(folder, folder).run("sh", "-c", command, PYTHONPATH=str(PROJECT))
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("moment", ["_multiarray_umath", "libtensorflow_cc", "first line"])
def test_ctrl_c_is_one_line(moment: str, folder: Path) -> None:
    """While NumPy or TensorFlow is imported, where exceptions get lost, or photos are read."""
    Image.new("RGB", (4000, 3000), RED).save(folder / "0.png")
    for i in range(1, 200):
        os.link(folder / "0.png", folder / f"a{i}.png")
    project = Project(folder, folder)
    project.environment["PYTHONPATH"] = str(PROJECT)
    project.log = folder.parent / "log"

    def reached() -> bool:
        if moment == "first line":
            return "wren" in project.log.read_text()
        return moment in Path(f"/proc/{process.pid}/maps").read_text()

    command = (sys.executable, "../predict.py", ".")
    with project.start(*command) as process:
        project.wait_until(reached)
        os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130
    text = project.log.read_text()
    assert text.endswith("interrupted\n")
    assert text.count("interrupted") == 1
    assert "Traceback" not in text


def test_the_names_are_those_of_the_data(finished: Project, folder: Path) -> None:
    shutil.copy(finished.folder / "cifar10.h5", folder.parent)
    done = run(folder, "--json", "1.JPG")
    assert set(json.loads(done.stdout)["1.JPG"]) == set(CLASS_NAMES)
    assert of_the_project(done.stderr) == []
