"""BN networks as IEBN networks and back, computing the same function."""
from iebn_zoo.conversion.bn_to_iebn import convert_bn_to_iebn
from iebn_zoo.conversion.iebn_to_bn import convert_iebn_to_bn
from iebn_zoo.conversion.report import ConversionReport, LayerReport

__all__ = ['ConversionReport', 'LayerReport', 'convert_bn_to_iebn', 'convert_iebn_to_bn']
