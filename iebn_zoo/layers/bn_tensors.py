"""Refuses a state dict that has the tensors of a BatchNorm where those of an IEBN layer belong."""
from typing import Any, Mapping

from iebn_zoo.util.errors import UsageError


def refuse_bn_tensors(state_dict: Mapping[str, Any], prefix: str) -> None:
    """Raise UsageError, a ValueError, if an IEBN layer would have to load what a BatchNorm saved.

    With ``strict=False`` the layer would load weight and bias, which its gate then scales by about a quarter, keep its
    own statistics, and say nothing.

    Args:
        state_dict: As the network is to load it.
        prefix: Of the layer's keys.
    """
    if f'{prefix}running_mean' in state_dict and f'{prefix}bn.running_mean' not in state_dict:
        raise UsageError(
            f'cannot load the tensors of a BatchNorm into the IEBN layer {prefix[:-1] or "at the root"}: there is '
            f'{prefix}running_mean, and no {prefix}bn.running_mean.\n'
            f'What converts them: timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=PATH));\n'
            f'or load them into the BN network and call iebn_zoo.convert_bn_to_iebn(model).')
