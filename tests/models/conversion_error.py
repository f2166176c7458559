"""How far a converted network is from the BN network, for every registered name at full depth and width.

    python -m tests.models.conversion_error --output scripts/benchmarks/conversion_error.csv

float32 logits of a deep network are not exact to 1e-6 whatever computes them. So beside the error of IEBN against BN
stand the error of BN itself, against BN in float64, and the error of the conversion where both compute in float64.
"""
import argparse
import copy
import csv
import itertools
import statistics
from typing import Dict

import timm
import torch
from torch import nn
from tqdm import tqdm

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.models.reference_checkpoint import cifar_checkpoint_filter_fn
from tests.support.models.bn_networks import bn_network, images, relative_error

COLUMNS = ('name', 'seed', 'size', 'iebn_float32', 'bn_float32', 'iebn_float64')


def base_name(name: str) -> str:
    return name.replace('iebn_', 'bn_') if name.endswith('_cifar') else name.removeprefix('iebn_')


@torch.no_grad()
def errors(name: str, seed: int = 0) -> Dict[str, object]:
    """Largest logit difference over the largest logit: of IEBN from BN, of BN from itself in float64, of both there."""
    cifar = name.endswith('_cifar')
    x = images(32 if cifar else 64)
    bn = bn_network(base_name(name), seed, num_classes=10)
    model: nn.Module = timm.create_model(name, num_classes=10).eval()
    model.load_state_dict(cifar_checkpoint_filter_fn(bn.state_dict(), model))
    expected = bn(x)
    found = relative_error(model(x), expected)
    exact = copy.deepcopy(bn).double()(x.double())
    return dict(name=name, seed=seed, size=x.shape[-1], iebn_float32=found,
                bn_float32=relative_error(expected.double(), exact),
                iebn_float64=relative_error(model.double()(x.double()), exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', required=True, metavar='FILE.csv')
    parser.add_argument('--names', nargs='+', default=timm.list_models('iebn_*'))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    args = parser.parse_args()
    rows = []
    for name, seed in tqdm([*itertools.product(args.names, args.seeds)], disable=None):
        rows.append(errors(name, seed))
        with open(args.output, 'w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({k: f'{v:.2e}' if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    for column in COLUMNS[3:]:
        worst = max(rows, key=lambda row: row[column])
        print(f"{column}: median {statistics.median(row[column] for row in rows):.1e}, "
              f"largest {worst[column]:.1e} ({worst['name']}), of {len(rows)}")


if __name__ == '__main__':
    main()
