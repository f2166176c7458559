"""What the lowest versions of torch and timm that the package allows do otherwise than those of constraints.txt."""
import timm
import torch
from packaging.version import Version

# torch 2.6 exports a dynamic batch with a guard that no batch size satisfies
OLD_TORCH = Version(torch.__version__) < Version('2.7')
# timm's resnet.py before 1.0.31 counts neither a concatenating pooling into head_hidden_size nor removed stages into
# num_features, and its loader fits no weights of one input channel to three
OLD_TIMM = Version(timm.__version__) < Version('1.0.31')
