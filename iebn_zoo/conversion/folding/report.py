"""The figures of a fold, for people and as CSV."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from iebn_zoo.conversion.folding.agreement import Agreement
from iebn_zoo.conversion.folding.statistics import GateMoments
from iebn_zoo.util.csv_files import write_csv

_LINE = '{:<32} {:>8} {:>8} {:>16} {:>15}'
_NETWORK = ('held_out_images', 'top1_agreement', 'max_logit_difference', 'mean_logit_difference', 'max_logit',
            'accuracy_original', 'accuracy_folded')
_HEADER = ('layer', 'channels', 'mean', 'instance_spread', 'channel_spread')


@dataclass(frozen=True)
class LayerGates:
    """The gates of one layer. Both spreads are standard deviations that divide by the number of values.

    Attributes:
        layer: Name of the layer in the original network.
        channels: C.
        mean: Over instances and channels.
        instance_spread: Over the instances, for each channel, averaged over channels: what the fold gives up.
        channel_spread: Over the channels, of the mean over instances: what the fold keeps.
    """

    layer: str
    channels: int
    mean: float
    instance_spread: float
    channel_spread: float

    @classmethod
    def from_moments(cls, layer: str, moments: GateMoments) -> 'LayerGates':
        """Make the figures of one layer from its moments."""
        return cls(layer, moments.mean.numel(), float(moments.mean.mean()), float(moments.variance.sqrt().mean()),
                   float(moments.mean.std(correction=0)))


@dataclass(frozen=True)
class FoldReport:
    """What a fold did.

    Attributes:
        images: Calibration images.
        layers: In the order of the network's modules.
        agreement: With the original network on held-out images; None where it was not measured.
    """

    images: int
    layers: Tuple[LayerGates, ...]
    agreement: Optional[Agreement] = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> 'FoldReport':
        """Make the report of which ``dataclasses.asdict`` made ``plain``.

        Raises:
            KeyError, TypeError: It is something else.
        """
        agreement = plain['agreement']
        return cls(plain['images'], tuple(LayerGates(**layer) for layer in plain['layers']),
                   None if agreement is None else Agreement(**agreement))

    def __str__(self) -> str:
        lines = [_LINE.format(*_HEADER)]
        lines += [_LINE.format(gates.layer, gates.channels, *(f'{v:.3g}' for v in (
            gates.mean, gates.instance_spread, gates.channel_spread))) for gates in self.layers]
        lines += [f'gates averaged over {self.images} images', self._agreement_line()]
        a = self.agreement
        if a is not None and a.accuracy_original is not None and a.accuracy_folded is not None:
            lines.append(f'accuracy on them: {100 * a.accuracy_original:.2f} % ({a.correct_original}/{a.labelled}) '
                         f'before, {100 * a.accuracy_folded:.2f} % ({a.correct_folded}/{a.labelled}) after')
        return '\n'.join(lines)

    def _agreement_line(self) -> str:
        a = self.agreement
        if a is None:
            return 'agreement with the original network: not measured, no held-out images were given'
        return (f'agreement on {a.images} held-out images: top-1 {100 * a.top1:.2f} % ({a.same_top1}/{a.images}), '
                f'|logit difference| max {a.max_difference:.3g}, mean {a.mean_difference:.3g} '
                f'(largest |logit| {a.max_logit:.3g})')

    def rows(self) -> List[Dict[str, Any]]:
        """Return one row per layer: its figures, then those of the whole network; None where not measured."""
        figures = self.agreement.figures() if self.agreement is not None else {}
        network = dict(images=self.images, **{k: figures.get(k) for k in _NETWORK})
        return [{**{k: getattr(gates, k) for k in _HEADER}, **network} for gates in self.layers]

    def figures(self) -> Dict[str, Any]:
        """Return everything as plain values: calibration_images, agreement (None where not measured), layers."""
        return dict(
            calibration_images=self.images, agreement=self.agreement and self.agreement.figures(),
            layers=[{k: getattr(gates, k) for k in _HEADER} for gates in self.layers])

    def write_csv(self, path: Union[str, Path]) -> None:
        """Write ``rows`` with all their digits. A field that was not measured stays empty.

        Raises:
            IEBNZooError: The file cannot be written.
        """
        write_csv(path, self.rows())
