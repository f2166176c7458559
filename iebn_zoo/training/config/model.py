"""The network that the flags ask for: its arguments, and the number of its classes."""
from typing import Any, Dict, List, Optional

from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.util.errors import UsageError


def model_args(args: TrainSettings, num_classes: int) -> Dict[str, Any]:
    """Return the arguments of the network that the flags set.

    Raises:
        UsageError: ``--model-kwargs`` names an argument that has its own flag.
    """
    flags = dict(num_classes=('--num-classes', num_classes), in_chans=('--in-chans', args.in_chans),
                 global_pool=('--gp', args.gp), drop_rate=('--drop', args.drop),
                 drop_path_rate=('--drop-path', args.drop_path))
    twice = next((name for name in args.model_kwargs if name in flags), None)
    if twice is not None:
        raise UsageError(f'--model-kwargs sets {twice}, which has its own flag.\nUse {flags[twice][0]}.')
    given = {name: value for name, (_, value) in flags.items() if value is not None}
    return {**given, **args.model_kwargs}


def match_num_classes(asked: Optional[int], class_names: Optional[List[str]], what: str = 'the data') -> Optional[int]:
    """Return the number of classes: ``asked``, or that of the data.

    Args:
        asked: The value of ``--num-classes``, or None.
        class_names: The classes of the data, or None where it does not name them.
        what: The data, for messages.

    Raises:
        UsageError: The two contradict.
    """
    found = len(class_names) if class_names else None
    if asked is not None and found is not None and asked != found:
        raise UsageError(
            f'num_classes is {asked}, but {what} has {found} classes.\nLeave out --num-classes, or use other data.')
    return asked if asked is not None else found
