"""The process that measures: ``python -m iebn_zoo.studies.benchmark.gpu.worker``, started by ``pool``.

It reads its job from stdin, prepares, writes a line ``{"ready": true}``, waits for a line on stdin, measures, and
writes each record as a line of JSON. What libraries print goes to stderr. When stdin ends, the pool is gone, and the
worker ends too.
"""
import json
import os
import sys
import threading
from typing import Any, Callable, Dict, Iterator

import torch

from iebn_zoo.studies.benchmark.check.oracle import check_operator
from iebn_zoo.studies.benchmark.gpu.clock import Clock
from iebn_zoo.studies.benchmark.gpu.layers import measure_layer
from iebn_zoo.studies.benchmark.gpu.models import CompiledModel, measure_model
from iebn_zoo.studies.benchmark.gpu.parts import Job

Record = Dict[str, Any]


def prepare(job: Job) -> Callable[[], Iterator[Record]]:
    """Do what may run beside other processes; return what measures.

    Raises:
        IEBNZooError: The job is a check, and the operator is wrong.
    """
    device = torch.device(job.device)
    torch.backends.cudnn.benchmark = True  # as in training
    if device.type == 'cuda':
        torch.cuda.set_device(device)
        torch.ones(1, device=device)  # makes the context
    if job.task == 'check':
        settings = [job.setting(text) for text in job.settings]
        compared = check_operator(settings, job.modes, device, job.shapes)
        return lambda: iter([dict(compared=compared)])
    if job.task == 'compiled':
        (case,) = job.cases
        compiled = CompiledModel(case, job.setting(case.setting), device)
        return lambda: compiled.measure(Clock(device))
    return lambda: _measure(job, device)


def _measure(job: Job, device: torch.device) -> Iterator[Record]:
    clock = Clock(device)
    for case in job.cases:
        setting = job.setting(case.setting)
        if case.kind == 'layer':
            yield from measure_layer(case, setting, device, clock)
        else:
            yield from measure_model(case, setting, device, clock, job.executions)


def main() -> int:
    """Entry point."""
    out = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # what a library prints is no record
    job = Job.from_json(json.loads(sys.stdin.readline()))
    go = threading.Event()
    threading.Thread(target=_listen, args=(go,), daemon=True).start()

    def say(message: Record) -> None:
        out.write(json.dumps(message) + '\n')
        out.flush()

    try:
        measure = prepare(job)
        say(dict(ready=True))
        go.wait()
        for record in measure():
            say(record)
    except Exception as e:
        say(dict(failed=f'{type(e).__name__}: {e}', message=str(e)))
        return 1
    return 0


def _listen(go: threading.Event) -> None:
    for _ in sys.stdin:
        go.set()
    os._exit(1)


if __name__ == '__main__':
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without the wait for threads and handlers of a GPU that may have failed
