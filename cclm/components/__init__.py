"""What the components of `torchx_components` are made of: their arguments, and the job that each describes. No torch.

TorchX takes every function of the module that it finds components in, and of its submodules, for a component.
Therefore everything else lives here.
"""
