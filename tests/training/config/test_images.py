"""Who opens the data first where it may have to be downloaded."""
import threading
from dataclasses import dataclass
from typing import Any, List

import pytest
import torch

from iebn_zoo.training.config import images as splits
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.processes import Processes

WORLD, A_MACHINE = 4, 2


@dataclass(frozen=True)
class Threads(Processes):
    """Processes as threads: two machines of two."""

    barrier: Any = None
    values: Any = None

    def gather(self, value: Any) -> List[Any]:
        self.values[self.rank] = value
        self.barrier.wait(30)
        values = list(self.values)
        self.barrier.wait(30)
        return values


def run(monkeypatch, opened):
    args = train_parser().parse_args(['--data-dir', 'd', '--dataset', 'torch/cifar10', '--dataset-download'])
    monkeypatch.setattr(splits, 'open_images', opened)
    barrier, values, ends = threading.Barrier(WORLD), [None] * WORLD, [None] * WORLD

    def process(rank):
        threading.current_thread().rank = rank
        try:
            ends[rank] = splits.open_splits(args, Threads(
                torch.device('cpu'), rank, WORLD, rank % A_MACHINE, barrier, values))
        except IEBNZooError as e:
            ends[rank] = e

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(WORLD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends


class Images:
    class_names = ['a']


def test_the_first_downloads_alone_then_one_of_each_machine_and_the_rest_find_the_files(monkeypatch):
    calls = []

    def opened(name, root, train, download, mode, **more):
        calls.append((threading.current_thread().rank, download))
        return Images()

    ends = run(monkeypatch, opened)
    assert all(len(end) == 2 for end in ends)
    assert calls[:4] == [(0, True)] * 2 + [(2, True)] * 2
    assert sorted(calls[4:]) == [(1, False)] * 2 + [(3, False)] * 2


@pytest.mark.parametrize('bad', range(WORLD))
def test_where_one_fails_all_say_so_and_none_waits(monkeypatch, bad):
    def opened(name, root, train, download, mode, **more):
        if threading.current_thread().rank == bad:
            raise IEBNZooError('no network')
        return Images()

    assert [str(end) for end in run(monkeypatch, opened)] == ['no network'] * WORLD
