import math

import pytest

from iebn_zoo.plots import overview, style
from iebn_zoo.plots.bands import bands_figure, draw_bands, mean_and_spread
from iebn_zoo.plots.curves import curves_figure, draw_curves
from iebn_zoo.plots.noise import NoisyRun, plot_runs
from iebn_zoo.plots.overlay import draw_overlay, overlay_figure
from iebn_zoo.plots.style import COLOURS, DASHES, last_and_best, line_style, series
from iebn_zoo.util.errors import IEBNZooError
from tests.support.plots.rows import rows

PNG = b'\x89PNG\r\n\x1a\n'


def drawn(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_a_runs_curves_show_every_column_by_the_epochs_of_the_log():
    loss, top1, lr = curves_figure(rows([10.0, 30.0, 20.0])).axes
    assert drawn(loss) == {'train (as optimized)': ([0, 1, 2], [3.0, 2.0, 1.0]), 'eval': ([0, 1, 2], [3.5, 2.5, 1.5])}
    assert drawn(top1) == {'eval: last 20.00, best 30.00 (epoch 1)': ([0, 1, 2], [10.0, 30.0, 20.0])}
    assert list(drawn(lr).values()) == [([0, 1, 2], [0.1, 0.05, 0.1 / 3])]


def test_gates_and_ema_are_drawn_where_the_rows_have_them():
    columns = {f'gate_{k}_stage{s}': [0.1 * s, 0.2 * s] for k in ('mean', 'spread') for s in (1, 2, 3)}
    fig = curves_figure(rows([10.0, 20.0], eval_ema_loss=[1.0, 0.5], eval_ema_top1=[12.0, 25.0], **columns))
    visible = [axes for axes in fig.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in visible[3:]] == ['mean of the gates', 'spread of the gates (std)']
    assert drawn(visible[3])['stage 3'] == ([0, 1], pytest.approx([0.3, 0.6])) and len(drawn(visible[4])) == 3
    assert drawn(visible[0])['eval, EMA'] == ([0, 1], [1.0, 0.5])
    assert 'EMA: last 25.00, best 25.00 (epoch 1)' in drawn(visible[1])


EMA = dict(eval_ema_loss=[9.0, math.inf, 7.0], eval_ema_top1=[5.0, 99.0, 8.0])


def test_the_weights_that_rank_a_run_are_drawn_and_named():
    averaged, plain = rows([60.0, 70.0, 65.0], **EMA), rows([10.0, 30.0, 20.0])
    fig = overlay_figure({'a': averaged, 'b': plain})
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        'a, EMA weights: last 8.00, best 8.00 (epoch 2)', 'b: last 20.00, best 30.00 (epoch 1)']
    assert fig.axes[0].get_lines()[0].get_ydata() == pytest.approx([9.0, math.nan, 7.0], nan_ok=True)
    assert fig.axes[1].get_lines()[0].get_ydata() == pytest.approx([5.0, math.nan, 8.0], nan_ok=True)
    fig = bands_figure({'a': [averaged], 'b': [plain], 'c': [averaged, plain]})
    assert [text.get_text().split(':')[0] for text in fig.legends[0].get_texts()] == [
        'a, EMA weights', 'b', 'c, EMA weights of some runs']
    assert fig.axes[1].get_lines()[0].get_ydata() == pytest.approx([5.0, math.nan, 8.0], nan_ok=True)


def test_plot_noise_and_the_overview_draw_them_too(tmp_path, monkeypatch):
    figures, averaged = [], rows([60.0, 70.0, 65.0], **EMA)
    monkeypatch.setattr(style, 'save', lambda fig, path, kind=None: figures.append(fig))
    monkeypatch.setattr(overview, 'save', style.save)
    plot_runs([NoisyRun('bn', 'no attack', averaged, [])], tmp_path / 'a.png')
    assert list(drawn(figures[0].axes[0])) == ['bn, no attack, top-1 of the EMA weights']
    overview.draw_overview(tmp_path / 'b.png', {'BN': [averaged]}, '')
    for lines in (figures[0].axes[0].get_lines(), figures[1].axes[2].get_lines()):
        assert lines[0].get_ydata() == pytest.approx([5.0, math.nan, 8.0], nan_ok=True)
    assert 'BN, EMA weights: 8.0 ± 0.0' in drawn(figures[1].axes[2])


@pytest.mark.parametrize('loss', [math.nan, math.inf])
def test_an_epoch_whose_loss_is_not_finite_is_not_the_best(loss):
    found = [dict(row, eval_loss=own) for row, own in zip(rows([90.0, 30.0, 20.0]), (loss, 2.0, 1.0), strict=True)]
    text = 'last 20.00, best 30.00 (epoch 1)'
    assert f'eval: {text}' in drawn(curves_figure(found).axes[1])
    assert overlay_figure({'a': found}).legends[0].get_texts()[0].get_text() == f'a: {text}'


def test_a_column_that_begins_late_is_drawn_where_it_is():
    late = [*rows([10.0]), dict(rows([10.0, 20.0])[1], gate_mean_stage1=0.3)]
    assert series(late, 'gate_mean_stage1') == ([1], [0.3])
    assert drawn(curves_figure(late).axes[3]) == {'stage 1': ([1], [0.3])}


def test_runs_of_different_length_lie_over_each_other_in_their_own_colours():
    fig = overlay_figure({'bn': rows([10.0, 20.0]), 'iebn': rows([15.0, 25.0, 22.0])})
    lines = fig.axes[1].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[10.0, 20.0], [15.0, 25.0, 22.0]]
    assert lines[0].get_color() != lines[1].get_color()
    named = [text.get_text() for text in fig.legends[0].get_texts()]
    assert named == ['bn: last 20.00, best 20.00 (epoch 1)', 'iebn: last 22.00, best 25.00 (epoch 1)']
    assert all(len(axes.get_lines()) == n for axes, n in zip(fig.axes, (4, 2, 2), strict=True))


def test_the_band_is_the_sample_standard_deviation_over_the_epochs_that_all_seeds_have():
    epochs, means, spreads = mean_and_spread([rows([10.0, 20.0, 90.0]), rows([14.0, 26.0])], 'eval_top1')
    assert (epochs, means) == ([0, 1], [12.0, 23.0])
    assert spreads == pytest.approx([math.sqrt(8), math.sqrt(18)])
    groups = {'bn': [rows([10.0, 20.0]), rows([14.0, 26.0])], 'iebn': [rows([11.0, 30.0])]}
    fig = bands_figure(groups, 'resnet20, digits, 2 epochs')
    assert fig.get_suptitle() == 'resnet20, digits, 2 epochs'
    top1 = fig.axes[1]
    (band,) = top1.collections  # one seed has no spread
    assert band.get_datalim(top1.transData).y1 == pytest.approx(23 + math.sqrt(18))
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        'bn: last 23.00 ± 4.24 (n = 2)', 'iebn: last 30.00 (n = 1)']


@pytest.mark.parametrize('figure', [
    curves_figure, lambda rows: overlay_figure({'bn': rows}), lambda rows: bands_figure({'bn': [rows]}, '')])
@pytest.mark.parametrize('losses, limits', [
    ((80.0, 3.0, 2.0, 0.5, math.nan), (0.25, 160.0)), ((2.5, 0.6, 0.2, 0.15, 0.012), None)])
def test_a_loss_far_above_the_others_does_not_press_them_onto_the_axis(figure, losses, limits):
    runs = [dict(row, train_loss=1.0 if limits else loss, eval_loss=loss)
            for row, loss in zip(rows([10.0] * 5), losses, strict=True)]
    loss, top1 = figure(runs).axes[:2]
    assert (loss.get_yscale(), top1.get_yscale()) == ('log' if limits else 'linear', 'linear')
    assert limits in (None, loss.get_ylim())


def test_many_lines_stay_distinct():
    styles = [tuple(line_style(i).values()) for i in range(len(COLOURS) * len(DASHES))]
    assert len(set(styles)) == len(styles)
    assert last_and_best([]) == ''


@pytest.mark.parametrize('draw, what', [
    (draw_curves, rows([1.0])), (draw_overlay, {'a': rows([1.0])}), (draw_bands, {'a': [rows([1.0])]})])
def test_pictures_are_png_files_and_an_unwritable_place_is_a_message(tmp_path, draw, what):
    assert draw(tmp_path / 'a.png', what).read_bytes().startswith(PNG)
    with pytest.raises(IEBNZooError, match='cannot write'):
        draw(tmp_path / 'nowhere' / 'a.png', what)
