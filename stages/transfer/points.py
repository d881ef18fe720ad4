"""Named points between time and accuracy: which settings of params.yaml they change.

`make point` asks for a point as options of `dvc exp run`.
"""

from pathlib import Path

import yaml

from stages.transfer.errors import PipelineError

POINTS = Path(__file__).with_name("points.yaml")


def settings(name: str) -> list[str]:
    """Return a point's settings as "section.key=value", as `dvc exp run -S` takes them.

    Raises:
        PipelineError: there is no such point.
    """
    points = yaml.safe_load(POINTS.read_text())
    if name not in points:
        raise PipelineError(f"POINT = {name!r}: expected one of {', '.join(points)}")
    return [f"{key}={value}" for key, value in points[name].items()]


def main(arguments: list[str]) -> None:
    """Print the settings of the point that is named."""
    print(*(f"-S {setting}" for setting in settings(*arguments[:1] or [""])))
