"""Hydra puts yaml files and the command line together, here the result becomes dataclasses.

Defaults stand in the dataclasses alone; Hydra is shown them first, so every key can be overridden and a misspelt one
fails at once, on the command line as in a yaml file, with the nearest name there is. No torch here.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def compose(folder: Path, root: str, cls: type, overrides: Sequence[str]) -> dict[str, Any]:
    """Hydra's composition of `folder`/`root`.yaml with the command line's overrides, as plain data.

    The root finds the defaults of `cls` in its list of defaults under the name `root`_defaults. Raises ValueError with
    a readable message for a misspelt key, an unknown option or an override that is no override.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name=f"{root}_defaults", node=_defaults(cls))
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            config = hydra_compose(root, list(overrides))
            return typing.cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_readable(error)) from error


def as_yaml(composed: Mapping[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(composed)))


def build(cls: type[T], data: Any, where: str = "") -> T:
    """A dataclass from plain data, checked all the way down. Raises ValueError naming the key that is wrong.

    Null takes an entry out of a group of named things, such as a loss or a part: a yaml file that is laid over another
    has no other way to.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the configuration'} must be a group of settings, not {data!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in data:
        if key not in known:
            raise ValueError(unknown_key(f"{prefix}{key}", str(key), known))
    absent = [
        name for name, f in known.items() if name not in data and f.default is MISSING and f.default_factory is MISSING
    ]
    if absent:
        raise ValueError(
            f"no value for {', '.join(prefix + name for name in absent)}; set it in the yaml or on the command line"
        )
    hints = typing.get_type_hints(cls)
    return cls(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in data.items()})


def unknown_key(full_key: str, key: str, known: Any) -> str:
    """What to say of a setting that does not exist, with the nearest name that does."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(key, names, n=1)
    return f"there is no setting {full_key}; " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    )


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, a container of such, or a plain type; integers pass for floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if arguments[-1] is not ... and len(value) != len(arguments):
            raise ValueError(f"{where} needs {len(arguments)} values, not {value!r}")
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(typing.cast(type, origin), Mapping) and isinstance(value, Mapping):
        taken_out = [] if arguments[1] is Any else [key for key, item in value.items() if item is None]
        kept = {key: item for key, item in value.items() if key not in taken_out}
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in kept.items()}
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    wanted = " or ".join(map(str, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where} must be {wanted}, not {value!r}")


def _defaults(cls: type) -> dict[str, Any]:
    """Every default of a dataclass and of the dataclasses in it, as plain data; what has no default is left out."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        declared = next(f for f in fields(cls) if f.name == name)
        if is_dataclass(hint):
            found[name] = _defaults(typing.cast(type, hint))
        elif declared.default is not MISSING:
            found[name] = list(declared.default) if isinstance(declared.default, tuple) else declared.default
        elif declared.default_factory is not MISSING:
            found[name] = declared.default_factory()
    return found


def _readable(error: Exception) -> str:
    """Hydra's message, or for a misspelt key one that names the nearest."""
    cause = error.__cause__
    key, parent = getattr(cause, "key", None), getattr(cause, "parent_node", None)
    if key is not None and parent is not None and "is not in struct" in str(cause):
        return unknown_key(str(getattr(cause, "full_key", key)), str(key), parent)
    return str(error).split("Config search path:")[0].strip()
