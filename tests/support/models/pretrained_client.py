"""Creates models as a user does, in a process that saw HF_ENDPOINT before it imported the client.

stdin: {"output": FILE, "cases": {KEY: [NAME, ARGUMENTS]}}. stdout, last line: {KEY: {"cfg": ...} or {"error": ...}}.
FILE, safetensors: KEY/features, KEY/logits, or KEY/0, KEY/1, ... of a feature extractor.
"""
import json
import sys

import timm
import torch
from safetensors.torch import save_file

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.create import create_model
from tests.support.models.bn_networks import images


def outputs(model):
    x = images(chans=getattr(model, 'in_chans', 3))  # timm 1.0.30's feature extractors do not say
    if not hasattr(model, 'forward_features'):
        return {str(i): y for i, y in enumerate(model(x))}
    return {'features': model.forward_features(x), 'logits': model(x)}


@torch.no_grad()
def main():
    request = json.load(sys.stdin)
    answer, tensors = {}, {}
    for key, (name, kwargs) in request['cases'].items():
        try:
            model = timm.create_model(name, pretrained=True, **kwargs).eval()
        except Exception:  # what our commands say of it
            try:
                create_model(name, pretrained=True, **kwargs)
            except IEBNZooError as e:
                answer[key] = {'error': str(e)}
                continue
            raise
        answer[key] = {'cfg': {k: v for k, v in model.pretrained_cfg.items() if k != 'state_dict'}}
        tensors.update({f'{key}/{k}': v.contiguous() for k, v in outputs(model).items()})
    save_file(tensors, request['output'])
    print(json.dumps(answer))


if __name__ == '__main__':
    main()
