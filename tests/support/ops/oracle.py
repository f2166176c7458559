"""IEBN and its gradients in numpy, one (instance, channel) at a time: shares no code with iebn_zoo.ops."""
import math

import numpy as np


def ie_batch_norm(x, running_mean, running_var, weight, bias, gate_weight, gate_bias, training, momentum, eps, dy):
    """The forward formula and the closed-form backward of iebn_zoo/ops/README.md.

    Args:
        x, dy: (B, C, H, W) float64 arrays.
        running_mean, running_var: (C,) or None.
        weight, bias: (C,) or None.
        gate_weight, gate_bias: (C,).

    Returns:
        dict: y, dx (B, C, H, W); running_mean, running_var, d_weight, d_bias, d_gate_weight, d_gate_bias (C,).
    """
    batch, channels, height, width = x.shape
    n, total = height * width, batch * height * width
    out = {'y': np.empty_like(x), 'dx': np.empty_like(x)}
    for name in ('d_weight', 'd_bias', 'd_gate_weight', 'd_gate_bias'):
        out[name] = np.zeros(channels)
    out['running_mean'] = None if running_mean is None else running_mean.copy()
    out['running_var'] = None if running_var is None else running_var.copy()
    by_batch = training or running_mean is None
    for c in range(channels):
        w = 1.0 if weight is None else weight[c]
        shift = 0.0 if bias is None else bias[c]
        if by_batch:
            values = x[:, c].ravel()
            mu = math.fsum(values) / total
            var = math.fsum((values - mu) ** 2) / total
        else:
            mu, var = running_mean[c], running_var[c]
        if training and running_mean is not None:
            out['running_mean'][c] += momentum * (mu - running_mean[c])
            out['running_var'][c] += momentum * (var * total / (total - 1) - running_var[c])
        r = 1.0 / math.sqrt(var + eps)
        s1 = s2 = 0.0
        rows = []
        for b in range(batch):
            m = math.fsum(x[b, c].ravel()) / n
            g = 1.0 / (1.0 + math.exp(-(gate_weight[c] * m + gate_bias[c])))
            x_hat = (x[b, c] - mu) * r
            out['y'][b, c] = w * g * x_hat + shift
            a_sum = math.fsum(dy[b, c].ravel())
            p_sum = math.fsum((dy[b, c] * x_hat).ravel())
            da = w * p_sum * g * (1 - g)
            out['d_bias'][c] += a_sum
            out['d_weight'][c] += g * p_sum
            out['d_gate_weight'][c] += da * m
            out['d_gate_bias'][c] += da
            s1 += w * g * a_sum
            s2 += w * g * p_sum
            rows.append((w * r * g, gate_weight[c] * da / n))
        k = -r * r * s2 / total
        for b, (s, tau) in enumerate(rows):
            out['dx'][b, c] = s * dy[b, c] + tau
            if by_batch:
                out['dx'][b, c] += k * (x[b, c] - mu) - r * s1 / total
    return out
