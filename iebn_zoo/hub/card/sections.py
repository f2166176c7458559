"""The sections of the card as Markdown."""
from iebn_zoo.hub.card.facts import Facts
from iebn_zoo.hub.card.text import escape, table
from iebn_zoo.training.run.ranking import WEIGHTS_NAMES, ranked_weights

# the first that is part of the name
_PAPERS = {
    'preresnet': 'Identity Mappings in Deep Residual Networks: https://arxiv.org/abs/1603.05027',
    'wrn': 'Wide Residual Networks: https://arxiv.org/abs/1605.07146',
    'wide_resnet': 'Wide Residual Networks: https://arxiv.org/abs/1605.07146',
    'resnext': 'Aggregated Residual Transformations for Deep Neural Networks: https://arxiv.org/abs/1611.05431',
    'resnet': 'Deep Residual Learning for Image Recognition: https://arxiv.org/abs/1512.03385',
    '': 'PyTorch Image Models: https://github.com/huggingface/pytorch-image-models',
}
_IEBN_BIBTEX = """@inproceedings{liang2020instance,
  title={Instance Enhancement Batch Normalization: An Adaptive Regulator of Batch Noise},
  author={Liang, Senwei and Huang, Zhongzhan and Liang, Mingfu and Yang, Haizhao},
  booktitle={Proceedings of the AAAI Conference on Artificial Intelligence},
  volume={34},
  pages={4819--4827},
  year={2020}
}"""
_TIMM_BIBTEX = """@misc{rw2019timm,
  author={Ross Wightman},
  title={PyTorch Image Models},
  year={2019},
  publisher={GitHub},
  howpublished={\\url{https://github.com/huggingface/pytorch-image-models}}
}"""


_STARTS = {
    'paper': "`start='paper'`: each gate began at 0.27 and each weight at 1, as in the paper",
    'bn': "`start='bn'`: weights began at 1/sigmoid(-1), so that the new network computed what BatchNorm computes",
}


_EXTREMES = {'top1': 'highest top-1', 'top5': 'highest top-5', 'loss': 'lowest loss'}


def description(facts: Facts) -> str:
    norm = ('with Instance Enhancement Batch Normalization (IEBN, AAAI 2020): the scale of each normalization is '
            'multiplied by a gate that is read from the instance\'s own channel mean'
            if facts.is_iebn else 'without IEBN layers, a control or a starting point')
    return (f'An image classification network {norm}. Trained with [timm](https://github.com/huggingface/'
            f'pytorch-image-models) and iebn-zoo on {escape(facts.dataset_name)}, {facts.num_classes} classes.')


def details(facts: Facts) -> str:
    channels, height, width = facts.data_config['input_size']
    lines = [
        '- **Model Type:** Image classification / feature backbone',
        '- **Model Stats:**',
        f'  - Parameters (M): {facts.parameters / 1e6:.2f}'
        + (f', of them {2 * facts.gates / 1e6:.4f} in {facts.gates:,} gates' if facts.is_iebn else ''),
        f'  - GMACs (convolutions and matrix products): {facts.macs / 1e9:.3f}',
        f'  - Image size: {height} x {width}, {channels} channels',
        *([f'- **Start of the gates:** {_STARTS[facts.start]}'] if facts.start else []),
        *(['- **Gates:** the same for every image, as gate_weight was held at 0 (`freeze_gate_weight=True`): a control']
          if facts.gate_weight_frozen else []),
        '- **Papers:**',
        *(['  - Instance Enhancement Batch Normalization: An Adaptive Regulator of Batch Noise: '
           'https://arxiv.org/abs/1908.04008'] if facts.is_iebn else []),
        *(['  - Squeeze-and-Excitation Networks: https://arxiv.org/abs/1709.01507'] if facts.arch[:3] == 'se_' else []),
        '  - ' + next(paper for part, paper in _PAPERS.items() if part in facts.arch),
        f'- **Dataset:** {escape(facts.dataset_name)}',
    ]
    if facts.label_names:
        shown = ', '.join(escape(name, 40) for name in facts.label_names[:10])
        lines.append(f'- **Classes:** {shown}{", ..." if len(facts.label_names) > 10 else ""} (all in config.json)')
    return '\n'.join(lines)


def results(facts: Facts) -> str:
    if not facts.rows:
        return 'The run left no summary.csv: nothing was measured.'
    kinds = [('weights', 'eval_')] + ([('EMA weights', 'eval_ema_')] if 'eval_ema_top1' in facts.rows[0] else [])
    exported, best, last = facts.exported_row, facts.best_row(), facts.rows[-1]
    lines = []
    for title, row in (('last epoch', last), ('best epoch', best or last)):
        for kind, prefix in kinds:
            mine = row is exported and (prefix == 'eval_ema_') == facts.ema
            lines.append([f"{title} ({row['epoch']}){', **exported**' if mine else ''}", kind,
                          f"{row[prefix + 'top1']:.2f}", f"{row[prefix + 'top5']:.2f}", f"{row[prefix + 'loss']:.4f}"])
    count = f'{facts.num_eval_images:,}' if facts.num_eval_images else 'an unknown number of'
    control = ', and no BatchNorm control under the same recipe is part of this card' if facts.is_iebn else ''
    seed = escape(facts.args.get('seed', 'unknown'))
    note = [f'On {count} evaluation images. One run (n = 1), seed {seed}: no spread is known{control}.',
            f'Epochs are counted from 0. The best is the one with the {_EXTREMES[facts.metric]} of '
            f'{WEIGHTS_NAMES[ranked_weights(last)]}. It was chosen on the evaluation images themselves and is '
            f'therefore optimistic; the last epoch is not.']
    asked = facts.args.get('epochs')
    if isinstance(asked, int) and last['epoch'] + 1 < asked:
        note.append(f'The run was not finished: {last["epoch"] + 1} of {asked} epochs.')
    if exported is None:
        note.append(f'The exported epoch ({facts.epoch}) is not in summary.csv.')
    elif exported is not last and exported is not best:
        note.append(f"Exported: epoch {facts.epoch}, top-1 {exported[facts.column('top1')]:.2f}.")
    note.append('Log: [summary.csv](summary.csv), a row an epoch.')
    return table(('epoch', 'of', 'top-1 (%)', 'top-5 (%)', 'loss'), lines) + '\n\n' + '\n'.join(note)


def limitations(facts: Facts) -> str:
    lines = [f'- It knows the {facts.num_classes} classes of its data and says one of them for any image.',
             '- It was measured on the evaluation images named above alone: not on other data, corruptions or groups.',
             '- Biases of the training images are in the weights.']
    if facts.is_ours:
        lines.append('- Loading needs the package iebn-zoo (`import iebn_zoo`); timm alone does not know the network.')
    return '\n'.join(lines)


def citation(facts: Facts) -> str:
    entries = ([_IEBN_BIBTEX] if facts.is_iebn else []) + [_TIMM_BIBTEX]
    return '\n\n'.join(f'```bibtex\n{entry}\n```' for entry in entries)
