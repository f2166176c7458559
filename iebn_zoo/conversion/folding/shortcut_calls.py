"""Whether a block has its norm add the shortcut, read from the source of its forward or from its FX graph."""
import ast
import inspect
import textwrap
from typing import Optional

from torch import nn
from torch.fx import GraphModule

from iebn_zoo.layers import IEBatchNormAct2d


def adds_shortcut(block: nn.Module, name: str) -> bool:
    """Whether ``forward`` of ``block`` calls ``self.<name>`` with more than the input, as IEBatchNormAct2d allows.

    No BatchNorm takes more. Where the source is not to be had, or the call is made elsewhere, the answer is no.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(block).forward)))
    except (OSError, TypeError, SyntaxError):  # typed in a console, compiled, or a forward made by a function
        return False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
             and isinstance(node.func.value, ast.Name) and (node.func.value.id, node.func.attr) == ('self', name)]
    return any(len(call.args) > 1 or any(k.arg == 'residual' for k in call.keywords) for call in calls)


def shortcuts_in_graphs(model: nn.Module) -> Optional[str]:
    """Name of a layer that an FX graph within ``model`` calls with more than the input, or None.

    A graph has no source to read, and its blocks are modules without a forward.
    """
    calls = [(graph.get_submodule(node.target), node) for graph in model.modules() if isinstance(graph, GraphModule)
             for node in graph.graph.nodes if node.op == 'call_module']
    return next((node.target for layer, node in calls
                 if isinstance(layer, IEBatchNormAct2d) and len(node.all_input_nodes) > 1), None)
