"""The list of models against timm's registry."""
import csv

import pytest
import timm

from iebn_zoo.commands.models import catalog, main
from iebn_zoo.util.errors import UsageError


def test_every_name_of_the_package_and_no_other():
    names = [row['name'] for row in catalog('*resnet18*')]
    expected = [*timm.list_models('iebn_resnet18*'), *timm.list_models('iebn_resnet18*', pretrained=True)]
    assert sorted(names) == sorted(set(expected)) and 'iebn_resnet18.bn_a1_in1k' in names
    only = [row['name'] for row in catalog('*resnet18', pretrained=True)]
    assert only == sorted(timm.list_models('iebn_resnet18.*', pretrained=True))
    assert {'bn_resnet20_cifar', 'se_resnet20_cifar', 'iebn_resnet20_cifar'} == {
        row['name'] for row in catalog('*resnet20_cifar') if row['weights'] == 'random'}


def test_rows_say_what_timm_makes(tmp_path, capsys):
    assert main(['iebn_resnet18', '--csv', str(tmp_path / 'models.csv')]) == 0
    rows = {row['name']: row for row in csv.DictReader((tmp_path / 'models.csv').read_text().splitlines())}
    count = sum(p.numel() for p in timm.create_model('iebn_resnet18').parameters())
    assert rows['iebn_resnet18'] == dict(
        name='iebn_resnet18', parameters=str(count), input_size='3 x 224 x 224', license='', top1='', weights='random')
    assert rows['iebn_resnet18.bn_a1_in1k']['weights'] == 'timm/resnet18.a1_in1k (BN, converted)'
    assert rows['iebn_resnet18.bn_a1_in1k']['top1'] == ''  # its card tells
    assert rows['iebn_resnet18.bn_fb_ssl_yfcc100m_ft_in1k']['license'] == 'cc-by-nc-4.0'
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1 and f'{count / 1e6:.2f} M' in lines[1]
    assert lines[0].split()[-3:] == ['top-1', '(%)', 'weights']
    with pytest.raises(UsageError, match='no network of this package is called resnet18'):
        main(['resnet18'])
