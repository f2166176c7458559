import math

import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.run.checkpoint import BEST, load_checkpoint
from iebn_zoo.util.ranking import best_row, described, rank_key, ranked_value, ranked_weights
from tests.support.training.datasets import flags


def rows(values, **columns):
    return [dict(epoch=i, eval_top1=v, eval_loss=v, **{k: c[i] for k, c in columns.items()})
            for i, v in enumerate(values)]


def test_the_average_is_what_is_ranked_where_there_is_one():
    plain = rows([3.0, 9.0, 5.0])
    averaged = rows([3.0, 9.0, 5.0], eval_ema_top1=[1.0, 2.0, 4.0], eval_ema_loss=[1, 0, 3])
    assert (ranked_weights(plain[0]), ranked_weights(averaged[0])) == ('model', 'ema')
    assert best_row(plain, 'top1')['epoch'] == 1 and best_row(averaged, 'top1')['epoch'] == 2
    assert best_row(plain, 'loss')['epoch'] == 0 and best_row(averaged, 'loss')['epoch'] == 1
    assert ranked_value(averaged[2], 'top1') == 4.0
    assert described(plain[1], 'top1') == 'top1 9 of the weights (epoch 1)'
    assert described(averaged[2], 'top1') == 'top1 4 of the EMA weights (epoch 2)'


@pytest.mark.parametrize('metric', ['top1', 'loss'])
def test_nan_is_behind_every_number_and_the_first_of_equals_is_best(metric):
    assert best_row(rows([math.nan, 2.0, 2.0]), metric)['epoch'] == 1
    assert best_row(rows([math.nan, math.nan]), metric)['epoch'] == 0
    assert best_row([], metric) is None
    assert rank_key(math.nan, metric) > rank_key(1e30, metric)


@pytest.mark.parametrize('loss', [math.nan, math.inf])
def test_an_accuracy_without_a_finite_loss_is_never_the_best(loss):
    found = [dict(epoch=0, eval_top1=90.0, eval_loss=loss), dict(epoch=1, eval_top1=5.0, eval_loss=2.0)]
    assert math.isnan(ranked_value(found[0], 'top1')) and best_row(found, 'top1')['epoch'] == 1
    averaged = [dict(row, eval_ema_top1=1.0, eval_ema_loss=3.0) for row in found]
    assert ranked_value(averaged[0], 'top1') == 1.0


@pytest.mark.parametrize('metric', ['top1', 'loss'])
def test_the_best_checkpoint_of_a_run_is_of_this_row(image_folder, tmp_path, metric, capsys):
    run = tmp_path / 'run'
    train(flags(image_folder, run, '--model-kwargs', 'layers=(1,1,1)', '--img-size', '16', '--epochs', '4',
                '--lr', '0.2', '--model-ema', '--model-ema-decay', '0.5', '--eval-metric', metric))
    best = load_checkpoint(run / BEST)
    row = best_row(load_checkpoint(run / 'last.pth.tar')['rows'], metric)
    assert best['epoch'] == row['epoch'] and best['best'] == (row[f'eval_ema_{metric}'], row['epoch'])
    assert f'best: {described(row, metric)}; run in' in capsys.readouterr().out
