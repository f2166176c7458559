"""``compare``: train a grid of models and seeds by one recipe, and report the results."""
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

import torch
import yaml
from tqdm import tqdm

from iebn_zoo.data.images import open_images
from iebn_zoo.data.named import is_folder
from iebn_zoo.studies.compare import arguments, report
from iebn_zoo.studies.compare.arms import make_arms
from iebn_zoo.studies.compare.checks import check_grid
from iebn_zoo.studies.compare.grid import TESTED, Cell, found_cells, make_cells, trained_arms
from iebn_zoo.studies.compare.jobs import Job, environment, run_jobs
from iebn_zoo.studies.compare.mps import mps
from iebn_zoo.studies.compare.notes import NOTES
from iebn_zoo.training.config.optimizer import training_epochs
from iebn_zoo.training.engine.stop import DEADLINE_EXIT
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.ranking import ranked_value

RECIPE = 'recipe.yaml'
_LOOK_SECONDS = 2.0


def build_parser() -> Any:
    """Make the parser of the command."""
    return arguments.build_parser()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/compare.py and of ``iebn-zoo compare``.

    Returns:
        0; 1 if a run has failed; otherwise 75 if ``--stop-after`` has left runs unfinished.
    """
    args, rest = arguments.parse(sys.argv[1:] if argv is None else argv)
    output = Path(args.output)
    if args.report:
        report.from_logs(output, args.baseline)
        return 0
    resolved = arguments.resolve(args, rest)
    arms = make_arms(args.model, args.norms, args.models, args.arm)
    # arms of earlier calls are in the report too
    there, named = found_cells(output), {arm.name: arm for arm in arms}
    others = list({c.arm.name: c.arm for c in there if c.arm.name not in named}.values())
    baseline = report.choose_baseline(args.baseline, output, [*trained_arms(arms, resolved.model_kwargs), *others])
    cells = make_cells(arms, args.seeds, output)
    if not Path(args.data_dir).exists() and not resolved.dataset_download:
        raise UsageError(f'no such directory: {args.data_dir}.\nGive --data-dir a directory with the images.')
    _keep_recipe(output, arguments.recipe_of(resolved))
    # other seeds of these arms too: the report averages over all of them
    for cell in [*cells, *(Cell(named[c.arm.name], c.seed, c.run) for c in there if c.arm.name in named)]:
        cell.check_arm(resolved.model_kwargs)
    flags = arguments.train_flags(args, rest)
    every = list({cell.run: cell for cell in (*cells, *there)}.values())
    for cell in every:
        cell.check_recipe(resolved)
        if cell.damage():
            print(f'warning: {cell.damage()}; the run counts as unfinished', file=sys.stderr, flush=True)
    check_grid(every)
    end = math.inf if args.stop_after is None else time.monotonic() + 60 * args.stop_after
    jobs = {cell: _job(cell, flags, resolved, args.test, end) for cell in cells
            if not _complete(cell, resolved, args.test)}
    print(f'{len(cells)} runs, {len(cells) - len(jobs)} of them complete', flush=True)
    if jobs and not is_folder(resolved.dataset) and resolved.dataset_download:
        # download once, before several runs do it at the same time
        for train in (True,) if resolved.holdout is not None and not args.test else (True, False):
            split = resolved.train_split if train else resolved.val_split
            open_images(resolved.dataset, resolved.data_dir, train, split, download=True)
    if jobs and resolved.mix_dataset and not is_folder(resolved.mix_dataset_name) and resolved.dataset_download:
        open_images(resolved.mix_dataset_name, resolved.mix_dataset, True, download=True)
    try:
        with mps(args.mps and args.jobs > 1) as variables:
            _run(jobs, resolved, args.jobs, end, variables)
    except KeyboardInterrupt:
        report.write(cells, resolved, output, baseline)
        print('stopped; the same command continues from here', file=sys.stderr)
        raise
    report.write(cells, resolved, output, baseline)
    failed = [job for job in jobs.values() if job.code not in (0, None, DEADLINE_EXIT)]
    for job in failed:
        print(f'failed: {job.name}: {job.error()} (log: {job.log})', file=sys.stderr)
    unfinished = [job for job in jobs.values() if job.code in (None, DEADLINE_EXIT)]
    if args.stop_after is not None and unfinished:
        print(f'stopped after {args.stop_after:g} minutes with {len(unfinished)} runs unfinished; the same command '
              f'continues', flush=True)
        return 1 if failed else DEADLINE_EXIT
    return 1 if failed else 0


def _keep_recipe(output: Path, recipe: Any) -> None:
    path = output / RECIPE
    if path.is_file():
        try:
            old = yaml.safe_load(path.read_text(encoding='utf-8'))
            difference = arguments.recipe_difference(old, recipe)
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as e:
            raise IEBNZooError(f'{path} is damaged.\nGive another --output.') from e
        if not difference:
            return
        if any(cell.begun() for cell in found_cells(output)):
            raise UsageError(f'{output} holds a grid of another recipe: {difference}.\n'
                             f'Give the flags it was started with, or another --output.')
        # no run has accepted the flags of then, so that nothing was trained by them
    elif output.is_dir() and any(path.name != NOTES for path in output.iterdir()):  # people may write notes first
        raise UsageError(f'{output} is not empty and holds no grid ({RECIPE}).\nGive another --output.')
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise IEBNZooError(f'cannot make {output}: {e.strerror or e}.\nGive --output a writable place.') from e
    write_text(path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def _complete(cell: Cell, resolved: Any, test: bool) -> bool:
    trained = cell.trained(training_epochs(resolved))
    return trained and not (test and any(cell.test_command(c, resolved) for c in TESTED))


def _job(cell: Cell, flags: Sequence[str], resolved: Any, test: bool, end: float) -> Job:
    def train() -> Optional[List[str]]:
        if cell.trained(training_epochs(resolved)):
            return None
        # a run that begins a moment too late makes one update and stops
        left = [] if end == math.inf else ['--stop-after', str(max(1e-3, (end - time.monotonic()) / 60))]
        return [*cell.train_command(flags, resolved.model_kwargs), *left]

    tests = [partial(cell.test_command, checkpoint, resolved) for checkpoint in TESTED] if test else []
    return Job(str(cell), [train, *tests], cell.run.parent / f'{cell.run.name}.log')


def _run(
        jobs: Mapping[Cell, Job], resolved: Any, slots: int, end: float, variables: Mapping[str, str],
) -> None:
    began, before = time.monotonic(), {cell: cell.images() for cell in jobs}
    on_cpu = resolved.device == 'cpu' or (resolved.device == 'auto' and not torch.cuda.is_available())
    cells = {id(job): cell for cell, job in jobs.items()}
    with tqdm(total=len(jobs) * training_epochs(resolved), unit='epoch', disable=not sys.stderr.isatty(), leave=False,
              dynamic_ncols=True, mininterval=0) as bar:
        looked = 0.0

        def say(line: str) -> None:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

        def ended(job: Job) -> None:
            cell = cells[id(job)]
            rows, seconds = cell.rows(), cell.seconds()
            top1 = ', diverged' if cell.diverged() else f", top-1 {ranked_value(rows[-1], 'top1'):.2f}" if rows else ''
            speed = f', {cell.images() / seconds:.0f} images/s' if seconds else ''
            stopped = ', stopped' if job.code == DEADLINE_EXIT else ''
            say(f'{job.name}: failed, exit code {job.code}: {job.error()}' if job.code and not stopped
                else f'{job.name}: {len(rows)} epochs{top1}, {job.seconds:.0f} s{speed}{stopped}')

        def waiting() -> None:
            nonlocal looked
            if not bar.disable and time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                bar.n = sum(len(cell.rows()) for cell in jobs)
                bar.refresh()

        env = {**environment(slots, on_cpu), **variables}
        run_jobs(list(jobs.values()), slots, env, lambda job: say(f'{job.name} ...'), ended, waiting,
                 over=lambda: time.monotonic() >= end)
    images = sum(cell.images() - count for cell, count in before.items())
    if images > 0:
        print(f'{images / (time.monotonic() - began):.0f} images/s of all runs together, {min(slots, len(jobs))} at '
              f'once', flush=True)
