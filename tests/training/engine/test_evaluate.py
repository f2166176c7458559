"""Evaluation counts every image once, exactly, and waits for the device at its end alone."""
import argparse

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from iebn_zoo.training.engine.evaluate import evaluate, note_on_amp
from iebn_zoo.util.errors import IEBNZooError

ARGS = argparse.Namespace(amp=False, channels_last=False)
CPU = torch.device('cpu')


def batches(number, size=7, classes=9):
    g = torch.Generator().manual_seed(number)
    return [(4 * torch.randn(size, classes, generator=g), torch.randint(0, classes, (size,), generator=g))
            for _ in range(number)]


class Count(TorchDispatchMode):
    """Counts the operations that read a value, or a number of values, from the device."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func._schema.name in ('aten::_local_scalar_dense', 'aten::nonzero', 'aten::index')
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('classes', [9, 3])
def test_it_agrees_with_an_independent_count(classes):
    data = batches(5, classes=classes)
    result = evaluate(nn.Identity(), data, ARGS, CPU)
    logits, targets = (torch.cat(x) for x in zip(*data, strict=True))
    rank = (logits > logits.gather(1, targets[:, None])).sum(1)  # of the target among the classes
    loss = -logits.double().log_softmax(1).gather(1, targets[:, None]).mean()
    assert (result['top1_count'], result['top5_count'], result['count']) == (
        int((rank < 1).sum()), int((rank < 5).sum()), 35)
    assert all(type(result[k]) is int for k in ('top1_count', 'top5_count', 'count'))
    assert result['loss'] == pytest.approx(float(loss), rel=1e-6)
    assert result['top1'] == 100 * result['top1_count'] / 35


def test_images_without_a_target_are_in_no_number_even_if_their_logits_are_nan():
    data = batches(3)
    more = []
    for logits, targets in data:
        unknown = torch.full((2, 9), float('nan'))
        more.append((torch.cat([unknown, logits]), torch.cat([torch.tensor([-1, -1]), targets])))
    plain, with_unknown = (evaluate(nn.Identity(), d, ARGS, CPU) for d in (data, more))
    assert with_unknown.pop('loss') == pytest.approx(plain.pop('loss'), rel=1e-6) and with_unknown == plain
    with pytest.raises(IEBNZooError, match='none of the images to evaluate on could be decoded'):
        evaluate(nn.Identity(), [(data[0][0], torch.full((7,), -1))], ARGS, CPU)


def test_a_nan_among_the_known_is_a_nan():
    (logits, targets), *_ = batches(1)
    logits[2] = float('nan')
    result = evaluate(nn.Identity(), [(logits, targets)], ARGS, CPU)
    assert result['loss'] != result['loss'] and result['count'] == 7


def test_it_reads_from_the_device_no_oftener_for_more_batches():
    reads = []
    for number in (1, 6):
        with Count() as count:
            evaluate(nn.Identity(), batches(number), ARGS, CPU)
        reads.append(count.reads)
    assert reads[0] == reads[1] > 0


@pytest.mark.parametrize('instructions', [True, False, None])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_amp_on_a_processor_without_bfloat16_is_called_slow(monkeypatch, instructions, dtype):
    monkeypatch.setattr('iebn_zoo.training.engine.evaluate.has_bfloat16_instructions', lambda: instructions)
    note = note_on_amp(argparse.Namespace(amp=True, amp_dtype=dtype), CPU)
    if instructions is False and dtype == 'bfloat16':
        assert note.startswith('note: --amp: this processor has no instructions for bfloat16') and '--no-amp' in note
    else:
        assert note is None
    assert note_on_amp(argparse.Namespace(amp=False, amp_dtype=dtype), CPU) is None
    assert note_on_amp(argparse.Namespace(amp=True, amp_dtype=dtype), torch.device('cuda')) is None
