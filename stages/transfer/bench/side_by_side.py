"""`make bench`: three ways to a classifier, side by side in one run, from the same arrays.

(1) this pipeline at a named point; (2) the way of Keras's guide to transfer learning, the net
frozen in the graph, then fine-tuned whole; (3) what is usually done, large nets at 224 px with
random weights, frozen, of which a slice is timed and ten epochs are derived. About 15 minutes on
two cores. It works in a temporary copy of the project, so that DVC's cache here neither helps nor
grows, and writes data/bench/bench.csv and data/bench/bench.md.
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.transfer import isolation, points
from stages.transfer.bench import comparison, processes
from stages.transfer.bench.arguments import Parser, count, share
from stages.transfer.bench.comparison import Row, Stage
from stages.transfer.bench.scratch import copy_project, cut_down, environment
from stages.transfer.files import digest, replacing
from stages.transfer.launcher import STAGES
from stages.transfer.params import PARAMS, load
from stages.transfer.paths import ARCHIVE, DATASET, FEATURES, FINE_TUNE_CURVE, METRICS
from stages.transfer.reproduction import COMMAND, DVC

BENCH = Path("data/bench")
MEASURED = STAGES[: STAGES.index("evaluate") + 1]
UNTIMED = "download"  # the clock starts when the archive is on disk
LAST = "fine_tune"  # and stops after this stage
CUT_AFTER = "preprocess"  # in a trial with fewer images
USUAL = ("DenseNet121", "ResNet50")
USUAL_SIZE = 224  # pixels


def repro(project: Path, variables: Mapping[str, str], *stages: str) -> list[Stage]:
    """Run the pipeline up to some stages, as a user does; return what each that ran cost."""
    return stages_of(processes.run([*DVC, "repro", *stages], project, variables))


def repro_cut_down(project: Path, variables: Mapping[str, str], images: int) -> list[Stage]:
    """Run the pipeline up to the dataset, and leave only some images in it."""
    stages = repro(project, variables, CUT_AFTER)
    cut_down(project / DATASET, images)
    processes.run([*DVC, "commit", "--force", CUT_AFTER], project, variables)
    return stages


def stages_of(run: processes.Run) -> list[Stage]:
    """Return what each stage of a `dvc repro` cost, from when DVC said that it began.

    DVC's own start goes to the first one, its end to the last.
    """
    began = run.stages
    times = [0.0, *list(began.values())[1:], run.seconds]
    return [
        Stage(
            name,
            end - start,
            # Without /proc all samples are 0, and only the whole run's peak is known.
            max((mib for at, mib in run.memory if start <= at < end and mib), default=run.peak_mib),
        )
        for name, start, end in zip(began, times, times[1:], strict=False)
    ]


def stage_images(project: Path) -> dict[str, int]:
    """Return how many images each stage of a finished pipeline has worked through.

    They are counted from what the stages left, wherever that tells.
    """
    with np.load(project / DATASET) as file:
        train, dev, test = (len(file[f"y_{part}"]) for part in ("train", "dev", "test"))
    stored = [np.load(path, mmap_mode="r") for path in (project / FEATURES).glob("*.npy")]
    with (project / FINE_TUNE_CURVE).open() as curve:
        epochs = len(list(csv.DictReader(curve)))
    head = load(project / PARAMS).train_head.images
    return {
        "features": sum(len(activations) for activations in stored),
        "train_head": min(head, train) + dev,
        "fine_tune": epochs * train,
        "evaluate": dev + test,
    }


def pipeline_row(point: str, project: Path, stages: Sequence[Stage], target: float) -> Row:
    """Return the row of a finished pipeline, from the stages that were timed."""
    metrics = json.loads((project / METRICS).read_text())
    dev = metrics["dev_accuracy_after_fine_tune"]
    until = [stage.name for stage in stages].index(LAST) + 1
    seconds = sum(stage.seconds for stage in stages[:until])
    took = {stage.name: stage.seconds for stage in stages}
    return Row(
        f"(1) this pipeline, {point}",
        seconds if dev >= target else None,
        {name: n / took[name] for name, n in stage_images(project).items() if n},
        max(stage.peak_mib for stage in stages),
        metrics["val_accuracy"],
        f"measured: dev {dev:.4f} after {seconds:.0f} s",
    )


def rival(
    arguments: Sequence[str], project: Path, variables: Mapping[str, str]
) -> tuple[Any, float]:
    """Run another way as a process of its own; return its result and its peak memory in MiB."""
    command = [*COMMAND, "rival"]
    command += ["--started", str(time.time()), *arguments]
    run = processes.run(command, project, variables)
    return json.loads(run.lines[-1]), run.peak_mib


def guide_row(result: dict[str, Any], peak_mib: float) -> Row:
    """Return the row of the guide's way, from what it printed."""
    last = result["checks"][-1]
    return Row(
        "(2) Keras's guide, all of the net in the graph",
        result["seconds"],
        result["images_per_second"],
        peak_mib,
        result["test_accuracy"],
        f"measured: dev {last['dev_accuracy']:.4f} after {last['seconds']:.0f} s, "
        f"{last['epoch']:g} epochs of fine-tuning at {result['rate']:g}; "
        f"head alone {result['dev_accuracy_after_head']:.4f}",
    )


def write_attempts(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write what tuning the guide's rate has tried: a line for each measurement of dev."""
    names = ["rate", "epoch", "images", "seconds", "dev_accuracy"]
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for result in results:
            writer.writerows({"rate": result["rate"], **check} for check in result["checks"])


def main(arguments: list[str]) -> None:
    """Run the benchmark, or with --tune the choice of the guide's rate."""
    parser = Parser(prog="python -m stages.transfer.command bench", description=__doc__)
    option = parser.add_argument
    option("--point", default="fastest", help="of (1), in stages/transfer/points.yaml; %(default)s")
    option(
        *("-S", "--set-param"),
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting for (1) and (2), as dvc exp run takes it",
    )
    option("--images", type=count, help="use so many of each part of the data, for a trial")
    option(
        "--target",
        type=share,
        default=0.87,
        help="accuracy on dev that (1) and (2) have to reach; %(default)s",
    )
    option("--tune", action="store_true", help="try rates for (2) instead, and nothing else")
    option("--epochs", type=count, help="fine-tune (2) for so many at the most")
    option(
        "--usual-images", type=count, default=512, help="images of (3) that are timed; %(default)s"
    )
    option(
        "--usual-batch-size",
        type=count,
        default=128,
        help="of (3); %(default)s, 32 needs less memory",
    )
    chosen = parser.parse_args(arguments)
    epochs = ["--epochs", str(chosen.epochs)] if chosen.epochs else []

    with isolation.temporary_folder("cifar10-bench-") as root:
        settings = [*points.settings(chosen.point), *chosen.settings]
        project, variables = copy_project(root, settings), environment(root)
        repro(project, variables, UNTIMED)
        stages = []
        if chosen.images:
            stages = repro_cut_down(project, variables, chosen.images)
        if chosen.tune:
            repro(project, variables, "backbone", CUT_AFTER)
            results, _ = rival(["guide", "--tune", *epochs], project, variables)
            write_attempts(results, BENCH / "tune.csv")
            print(f"the attempts stand in {BENCH / 'tune.csv'}")
            return
        stages += repro(project, variables, MEASURED[-1])
        heading = comparison.header(digest(project / ARCHIVE), chosen.images)
        rows: list[Row] = []

        def add(row: Row) -> None:
            # Written after each way, so that one that fails costs none of the others.
            rows.append(row)
            comparison.write(BENCH, heading, chosen.target, rows, stages)

        add(pipeline_row(chosen.point, project, stages, chosen.target))
        limit = ["--target", str(chosen.target)]
        (result,), peak = rival(["guide", *epochs, *limit], project, variables)
        add(guide_row(result, peak))
        size = ["--image-size", str(USUAL_SIZE), "--batch-size", str(chosen.usual_batch_size)]
        size += ["--images", str(chosen.usual_images)]
        for name in USUAL:
            result, peak = rival(["usual", "--name", name, *size], project, variables)
            add(comparison.derived_row(name, USUAL_SIZE, result, peak))
    print((BENCH / "bench.md").read_text())
