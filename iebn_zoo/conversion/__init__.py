"""BN networks as IEBN networks and back, computing the same function."""
from iebn_zoo.conversion.report import ConversionReport, LayerReport
from iebn_zoo.conversion.to_bn import convert_iebn_to_bn
from iebn_zoo.conversion.to_iebn import convert_bn_to_iebn

__all__ = ['ConversionReport', 'LayerReport', 'convert_bn_to_iebn', 'convert_iebn_to_bn']
