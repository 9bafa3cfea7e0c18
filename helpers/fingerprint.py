"""A checksum of the code behind functions, classes and networks, to tell one run from another."""

from __future__ import annotations

import contextlib
import functools
import sys
import zlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

PLAIN = (int, float, complex, str, bytes, type(None))
FOREIGN = {*sys.stdlib_module_names, "torch", "torchvision", "numpy"}  # these count by name alone
KEPT_BY_TORCH = vars(nn.Module()).keys()  # attributes that every module has


def fingerprint(*things: Any) -> str:
    """A short checksum (CRC-32, hexadecimal) of the code that these functions, classes and objects run.

    Followed are methods, inherited ones too, functions called by name or held in closures and attributes,
    and plain values among defaults, closures and attributes. Code of torch and of Python itself counts by
    its name. Left out are comments, docstrings, the values of global variables, tensors, and what lists and
    other things hold that may change meanwhile. The checksum belongs to one version of Python.
    """
    value = 0
    for part in _parts(things, set()):
        value = zlib.crc32(part.encode(), value)
    return f"{value:08x}"


def _parts(things: Iterable[Any], seen: set[int]) -> Iterator[str]:
    """What the checksum covers, as texts, each object once."""
    for thing in map(_as_written, things):
        if isinstance(thing, PLAIN):
            yield repr(thing)
        elif isinstance(thing, tuple):
            yield from _parts(thing, seen)
        elif isinstance(thing, CodeType):
            yield f"{thing.co_code.hex()} {thing.co_names}"
            documented = isinstance(next(iter(thing.co_consts), 0), str | None)  # the docstring, or its place
            yield from _parts(thing.co_consts[documented:], seen)
        elif id(thing) not in seen:
            seen.add(id(thing))
            yield from _parts(_inside(thing), seen)


def _as_written(thing: Any) -> Any:
    """What torch.compile was given, in the place of what it made of that, which differs from run to run."""
    for name in ("_orig_mod", "_torchdynamo_orig_callable"):
        thing = getattr(thing, "__dict__", {}).get(name) or getattr(thing, "_modules", {}).get(name) or thing
    return thing


def _inside(thing: Any) -> Iterator[Any]:
    """What an object that is no plain value is made of."""
    if isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, tuple(sorted(thing.keywords.items())))
    elif isinstance(thing, property | staticmethod | classmethod):
        yield thing.fget if isinstance(thing, property) else thing.__func__
    elif (getattr(thing, "__module__", None) or "builtins").split(".")[0] in FOREIGN:
        yield getattr(thing, "__qualname__", type(thing).__qualname__)
        if isinstance(thing, nn.Module):
            yield from _attributes(thing)
    elif isinstance(thing, FunctionType):
        yield from (thing.__code__, thing.__defaults__, *sorted((thing.__kwdefaults__ or {}).items()))
        yield from _held(thing)
    elif isinstance(thing, type):
        yield from thing.__mro__[1:]
        for name, value in vars(thing).items():
            if isinstance(value, FunctionType) or not name.startswith("__"):
                yield value
    else:
        yield from (getattr(thing, "__func__", None), type(thing))
        yield from _attributes(thing)


def _held(function: FunctionType) -> Iterator[Any]:
    """What a function has in its closure, and the functions and classes that it calls by name."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell: a name that is not bound yet
            yield cell.cell_contents
    called = (function.__globals__.get(name) for name in _names(function.__code__))
    yield from (one for one in called if isinstance(one, FunctionType | type))


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function and the functions inside it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """An object's plain values and functions, and the layers of a network, each with its name."""
    for name, value in vars(thing).items() if hasattr(thing, "__dict__") else ():
        counts = isinstance(value, (*PLAIN, tuple)) or callable(value)
        if counts and not (isinstance(thing, nn.Module) and name in KEPT_BY_TORCH):
            yield name, value
    if isinstance(thing, nn.Module):
        yield from thing._modules.items()
