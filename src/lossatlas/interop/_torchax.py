"""The library torchax, imported beside a newer PyTorch and used without a trace in anybody's global settings."""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax

from lossatlas._errors import InputError
from lossatlas.interop._torch_tensors import require_torch


# PyTorch 2.13 removed the overloads of named tensors, which the tables of torchax 0.0.13 still list, so its import
# fails. They are never called: tensors have no names any more. Each is lent another overload of its operator until the
# tables are read.
_REMOVED = {
    "all": ("dimname", "dimname_out"),
    "index_add": ("dimname",),
    "index_copy": ("dimname",),
    "index_copy_": ("dimname",),
    "index_fill": ("Dimname_Scalar", "Dimname_Tensor"),
    "index_fill_": ("Dimname_Scalar", "Dimname_Tensor"),
    "norm": ("names_ScalarOpt_dim", "names_ScalarOpt_dim_dtype", "names_dtype_out", "names_out"),
    "prod": ("dim_Dimname",),
    "std": ("correction_names", "correction_names_out", "names_dim", "names_out"),
    "std_mean": ("correction_names", "names_dim"),
    "unbind": ("Dimname",),
}


def require_torchax() -> Any:
    """The module torchax.

    What its import changes is put back: the fast path of PyTorch's attention, an environment variable, options of JAX.
    One thing stays: PyTorch then has a device `jax`, which `torch.accelerator.current_accelerator()` names; it counts
    as not available, so code that asks for an available accelerator goes on as before.

    **Raises:** `InputError` where it, or PyTorch, is not installed.
    """
    torch = require_torch()
    if _LAST in sys.modules:
        return sys.modules["torchax"]
    if not importlib.util.find_spec("torchax"):
        msg = "This module is no plain stack of layers; it needs torchax: pip install 'lossatlas[torch]' (or torchax)."
        raise InputError(msg)
    fast, environment = torch.backends.mha.get_fastpath_enabled(), dict(os.environ)
    options = getattr(jax.config, _OPTIONS, None)
    try:
        with _named_overloads(torch):
            torchax = importlib.import_module("torchax")
            importlib.import_module(_LAST)
        # Else torch.accelerator.is_available() turns true, and torch.random.fork_rng() fails on the new device.
        torchax.device_module.is_available = lambda: False
        torchax.device_module.device_count = lambda: 0
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        if getattr(jax.config, _OPTIONS, None) != options:
            jax.config.update(_OPTIONS, options)
    return torchax


_LAST = "torchax.decompositions"  # torchax itself reads its tables there only when they are first used
_OPTIONS = "jax_pjrt_client_create_options"


@contextlib.contextmanager
def _named_overloads(torch: Any) -> Iterator[None]:
    """The removed overloads, for a while."""
    lent = []
    for operator, names in _REMOVED.items():
        packet = getattr(torch.ops.aten, operator)
        for name in names:
            if name not in packet.overloads():
                setattr(packet, name, getattr(packet, packet.overloads()[0]))
                lent.append((packet, name))
    try:
        yield
    finally:
        for packet, name in lent:
            delattr(packet, name)


@contextlib.contextmanager
def jax_tensors() -> Iterator[Any]:
    """PyTorch computing on arrays of JAX; gives the environment of torchax that wraps and unwraps them."""
    import torch

    environment = require_torchax().default_env()
    fast, enabled = torch.backends.mha.get_fastpath_enabled(), environment.enabled
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernels know no arrays of JAX
    try:
        # The lowerings of torchax rely on the usual promotion, whatever the user has chosen.
        with environment, jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            yield environment
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        environment.enabled = enabled
