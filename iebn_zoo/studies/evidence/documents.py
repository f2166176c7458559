"""Writes the tables of documents that stand between markers, from the logs.

    python -m iebn_zoo.studies.evidence.documents scripts/benchmarks                 # every README.md there
    python -m iebn_zoo.studies.evidence.documents scripts/benchmarks README.md       # and another document

A marker is a line of its own, and so is the end of the table:

    <!-- table: norms start zoo -->            one line per experiment, one column per norm
    <!-- table: arms start -->                 one line per arm
    <!-- table: lr of zero_init zero_init_lr -->   one column per value of a flag
    <!-- table: times cpu_float32 -->          ratios of times over the days of a benchmark
    <!-- table: sizes zoo -->                  batch noise over sizes of the batch, from batch_sizes.csv
    <!-- table: attacks noise -->              one line per noise attack in training and way of evaluation
    <!-- end of table -->

The words behind the kind are experiments, or folders of them, by their path below the directory with the logs; behind
``times`` it is a benchmark.
"""
import re
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from iebn_zoo.studies.evidence.attacks import attacks_table
from iebn_zoo.studies.evidence.batch_noise import sizes_table
from iebn_zoo.studies.evidence.experiments import Experiment, find_experiments
from iebn_zoo.studies.evidence.tables import arms_table, flag_table, norms_table
from iebn_zoo.studies.evidence.timings import BENCHMARKS, read_days, times_table
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text

END = '<!-- end of table -->'
_OF_ONE = {'arms': arms_table, 'sizes': sizes_table, 'attacks': attacks_table}  # tables of one experiment
_MARKER = re.compile(r'^<!--\s*table:(.*?)-->[ \t]*\n(.*?)^(?:<!-- end of table -->$|(?=<!--\s*table:)|\Z)',
                     re.M | re.S)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.evidence.documents', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('logs', type=Path, metavar='DIR', help='directory with the logs')
    parser.add_argument('documents', type=Path, nargs='*', metavar='FILE', help='Markdown documents, besides every '
                        'README.md below DIR')
    args = parser.parse_args(argv)
    for path in write_tables(args.logs, [*args.documents, *sorted(args.logs.rglob('README.md'))]):
        print(path)
    return 0


def write_tables(logs: Path, documents: Sequence[Path]) -> List[Path]:
    """Write the tables of documents; returns those that changed. No document is written unless all can be.

    Raises:
        UsageError: A marker is wrong, or names an experiment that is not there.
        IEBNZooError: A document cannot be read or written.
    """
    experiments = find_experiments([logs])
    texts = {path: read_document(path) for path in documents}
    made = {path: with_tables(text, experiments, path, logs) for path, text in texts.items()}
    changed = [path for path in documents if made[path] != texts[path]]
    for path in changed:
        write_text(path, made[path])
    return changed


def with_tables(text: str, experiments: Sequence[Experiment], path: Path, logs: Path) -> str:
    """Return the text of a document with its tables as the logs make them.

    Args:
        text: The document.
        experiments: Of ``find_experiments``.
        path: Of the document, for messages.
        logs: Directory with the logs.

    Raises:
        UsageError: A marker is wrong, or names an experiment that is not there.
    """
    def table(match: 're.Match[str]') -> str:
        words = match[1].split()
        if not match[0].endswith(END):
            raise UsageError(f'{path}: the table "{" ".join(words)}" has no end.\nExpected {END} on a line of its own.')
        try:
            made = _table(words, experiments, logs)
        except UsageError as e:
            raise UsageError(f'{path}: {e}') from e
        return f'<!-- table: {" ".join(words)} -->\n{made}\n{END}'

    return _MARKER.sub(table, text)


def read_document(path: Path) -> str:
    """Read a document.

    Raises:
        IEBNZooError: It cannot be read.
    """
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as e:
        raise IEBNZooError(f'cannot read {path}: {e}.\nExpected a Markdown document.') from e


def _table(words: Sequence[str], experiments: Sequence[Experiment], logs: Path) -> str:
    if len(words) > 1 and words[0] == 'norms':
        return norms_table(_named(words[1:], experiments))
    if len(words) == 2 and words[0] in _OF_ONE:
        found = _named(words[1:], experiments)
        if len(found) > 1:
            raise UsageError(f'{words[1]} holds {len(found)} experiments.\nName one: '
                             f'{", ".join(e.name for e in found)}.')
        return _OF_ONE[words[0]](found[0])
    if len(words) > 2 and words[1] == 'of':
        return flag_table(_named(words[2:], experiments), words[0])
    if len(words) == 2 and words[0] == 'times':
        if words[1] not in BENCHMARKS:
            raise UsageError(f'no benchmark is called {words[1]}.\nExpected one of {", ".join(BENCHMARKS)}.')
        return times_table(read_days(logs, words[1]))
    raise UsageError(f'unknown table "{" ".join(words)}".\nExpected "norms EXPERIMENT ...", "arms EXPERIMENT", '
                     f'"sizes EXPERIMENT", "attacks EXPERIMENT", "FLAG of EXPERIMENT ..." or "times BENCHMARK".')


def _named(names: Sequence[str], experiments: Sequence[Experiment]) -> List[Experiment]:
    found: List[Experiment] = []
    for name in names:
        own = [e for e in experiments if e.name == name] or [e for e in experiments if e.name.startswith(f'{name}/')]
        if not own:
            raise UsageError(f'no experiment is called {name}.\nExpected one of '
                             f'{", ".join(e.name for e in experiments)}.')
        found += own
    return found


if __name__ == '__main__':
    sys.exit(run(main))
