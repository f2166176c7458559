"""The loss that the flags ask for, against its formula in float64."""
import pytest
import torch

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.loss import make_loss

CLASSES = 5


def losses(*flags):
    loss, mixup = make_loss(train_parser().parse_args(flags), CLASSES)
    torch.manual_seed(0)
    return loss, mixup, 3 * torch.randn(6, CLASSES, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])


def bce(logits, targets):
    p = 1 / (1 + (-logits).exp())
    return -(targets * p.log() + (1 - targets) * (1 - p).log())


@pytest.mark.parametrize('smoothing', [0., 0.1])
def test_binary_cross_entropy_of_class_indices(smoothing):
    loss, mixup, logits, labels = losses('--bce-loss', '--smoothing', str(smoothing))
    soft = (1 - smoothing) * torch.nn.functional.one_hot(labels, CLASSES).double() + smoothing / CLASSES
    assert mixup is None
    torch.testing.assert_close(loss(logits, labels), bce(logits, soft).mean())


def test_binary_cross_entropy_of_mixed_labels_with_a_threshold_and_a_sum():
    loss, mixup, logits, labels = losses('--bce-loss', '--bce-target-thresh', '0.2', '--bce-sum', '--mixup', '0.5')
    _, soft = mixup(torch.zeros(6, 1, 2, 2), labels)
    soft = soft.double()
    torch.testing.assert_close(loss(logits, soft), bce(logits, (soft > 0.2).double()).sum(1).mean())


def test_without_it_cross_entropy():
    loss, _, logits, labels = losses()
    expected = -logits.log_softmax(1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(loss(logits, labels), expected)
