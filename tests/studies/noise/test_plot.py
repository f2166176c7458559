"""The picture of several runs."""
import pytest
import yaml

from iebn_zoo.commands.plot_noise import main
from iebn_zoo.studies.noise.log import layer_rows, write_layers
from iebn_zoo.studies.noise.measure import LayerNoise
from iebn_zoo.studies.noise.runs import read_run
from iebn_zoo.training.run.records import write_summary
from iebn_zoo.util.errors import UsageError


def write_run(run, model, measured=True, **attack):
    run.mkdir()
    (run / 'args.yaml').write_text(yaml.safe_dump(dict(model=model, norm_noise=None, mix_dataset=None, **attack)))
    write_summary(run, [dict(epoch=e, eval_top1=10.0 * e, **(dict(batch_noise=0.1) if measured else {}))
                        for e in range(2)])
    if measured:
        write_layers(run, [row for e in range(2) for row in layer_rows(e, [
            LayerNoise('bn1', 4, 0.1, 1.0 + e), LayerNoise('layer1.0.bn1', 8, 0.2, 0.0)])])
    return run


def test_bn_beside_iebn_with_and_without_attack(tmp_path):
    runs = [write_run(tmp_path / 'a', 'bn_resnet20_cifar'), write_run(tmp_path / 'b', 'iebn_resnet20_cifar', False),
            write_run(tmp_path / 'c', 'iebn_resnet20_cifar', mix_count=3)]
    (tmp_path / 'c' / 'args.yaml').write_text(yaml.safe_dump(
        dict(model='iebn_resnet20_cifar', norm_noise=[0.8, 0.5], mix_dataset='some/digits', mix_count=3)))
    assert main([*map(str, runs), '--output', str(tmp_path / 'noise.png')]) == 0
    assert (tmp_path / 'noise.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    assert [read_run(run).attack for run in runs] == ['no attack', 'no attack', 'Na 0.8, Nb 0.5 and 3 of digits']
    layers = read_run(runs[0]).layers
    assert [row['batch_noise'] for row in layers][::2] == [0.1, 0.05] and layers[1]['batch_noise'] != 0


def test_runs_without_the_measure(tmp_path):
    assert main([str(write_run(tmp_path / 'a', 'bn_resnet20_cifar', False)), '--output', str(tmp_path / 'n.png')]) == 0


def test_no_run_and_a_damaged_one(tmp_path):
    with pytest.raises(UsageError, match='no args.yaml'):
        read_run(tmp_path)
    run = write_run(tmp_path / 'a', 'bn_resnet20_cifar')
    (run / 'batch_noise.csv').write_text('epoch,layer\n0,bn1\n')
    with pytest.raises(UsageError, match='damaged'):
        read_run(run)
