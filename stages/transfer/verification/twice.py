"""`make verify`: is the result the same, bit for bit, twice here and where it was committed?

Two clones of the last commit, without a cache, run the pipeline one after the other. The digest of
every output is compared between them and with dvc.lock; what passes stands in comparison.py.
Nothing is written to this project.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stages.transfer import isolation
from stages.transfer.bench.arguments import Parser, count
from stages.transfer.errors import PipelineError
from stages.transfer.verification import clones
from stages.transfer.verification.comparison import aligned, compare, of_another_archive, table


@contextlib.contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    """Give an empty folder, a temporary one unless it is to be kept."""
    if kept is None:
        with isolation.temporary_folder("cifar10-verify-") as temporary:
            yield temporary
        return
    if kept.exists():
        raise PipelineError(f"--keep {kept}: expected a folder that does not exist yet")
    kept.mkdir(parents=True)
    yield kept.resolve()


def main(arguments: list[str]) -> None:
    """Run twice, print the table and a verdict; raise PipelineError if it is not passed."""
    parser = Parser(prog="python -m stages.transfer.command verify", description=__doc__)
    add = partial(parser.add_argument, action="append", default=[], metavar="KEY=VALUE")
    add("-S", "--set-param", dest="settings", help="another setting, for both runs")
    add("--perturb", help="another setting, for the second run only")
    parser.add_argument("--threads", type=count, help="of TensorFlow, for the second run only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the clones there")
    chosen = parser.parse_args(arguments)

    verified = clones.commit()
    with folder(chosen.keep) as root:
        results = []
        parts = [root / "1", root / "2"]
        projects = [
            clones.clone(parts[0], chosen.settings),
            # The settings of both have just passed, so that a fault is in what is perturbed.
            clones.clone(parts[1], [*chosen.settings, *chosen.perturb], "--perturb"),
        ]
        recorded = None if chosen.settings else clones.committed(projects[0])
        for number, part, project in zip((1, 2), parts, projects, strict=True):
            print(f"run {number} of 2: commit {verified} in {project}", flush=True)
            threads = chosen.threads if number == 2 else None
            found, seconds = clones.run(f"run {number}", part, project, threads)
            print(f"run {number} of 2: {seconds:.0f} s", flush=True)
            results.append(found)
            if not chosen.keep:
                clones.remove_outputs(project)

    print(f"\n{aligned(table(results[0], results[1], recorded))}\n")
    verdicts = [compare(results[0], results[1])]
    if not recorded:
        print("dvc.lock is of other settings (-S): not compared")
    elif of_another_archive(recorded, results[0]):
        print("dvc.lock is of another archive, accepted too: not compared")
    else:
        verdicts.append(compare(recorded, results[0]))
    told = "; ".join(verdict.text for verdict in verdicts)
    if not all(verdict.passed for verdict in verdicts):
        raise PipelineError(f"verify: FAILED, commit {verified}: {told}")
    print(f"verify: passed, commit {verified}: {told}")
