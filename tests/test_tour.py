"""docs/tour.ipynb runs from top to bottom; the repository holds it without outputs."""

import json
import re
import sys

from tests.conftest import PROJECT, Project

CELLS = json.loads((PROJECT / "docs/tour.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_its_outputs_are_stripped() -> None:
    assert len(CODE) > 3
    assert not any(cell["outputs"] or cell["execution_count"] for cell in CODE)


def test_it_runs_and_shows_what_was_trained(finished: Project) -> None:
    code = "\n".join("".join(cell["source"]) for cell in CODE)
    done = finished.run(sys.executable, "-c", code, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr
    assert "vgg16 cut at block4_pool, " in done.stdout
    frozen, trained = re.findall(r"(?:frozen|trained), .*", done.stdout)
    assert frozen.endswith("block4_conv3")
    assert trained.endswith("weights: block5_conv1 block5_conv2 block5_conv3 predictions")
    assert re.search(r"\nlabel +frozen +fine-tuned\n(.*\n){10}right: \d+ \d+\n$", done.stdout)
