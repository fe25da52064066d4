"""Accelerators: peaks, memory, links, watts and prices, each with its source; a user's file adds and overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from fathom.config import build, nearest, read_toml
from fathom.errors import ConfigError
from fathom.plan.precision import Peak

FILE = Path(__file__).parent / "data" / "hardware.toml"
COUNTED = re.compile(r"(?:(\d+)\s*x\s*)?(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """One accelerator, as data/hardware.toml describes it; None: not known.

    Fields: *_tflops, int8_tops: dense peak [1e12/s]. matmul_*: what a large product reaches. memory_gb: as sold,
            driver_gb: as the driver reports it [1e9 B]. memory_tbs [1e12 B/s]. link_gbs: to the link_world devices of
            its scale-up domain, one direction [1e9 B/s]. network_gbs: beyond them, per device. cores: that work side
            by side (SMs, CUs, CPU cores). utility_kw: drawn from the grid, cooling and host included. *_usd_h: per
            device [USD/h]. grade: A read at its source, B partly, C recalled.
    """

    title: str
    vendor: str
    bf16_tflops: float
    memory_gb: float
    memory_tbs: float
    name: str = ""
    aliases: tuple[str, ...] = ()
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    int8_tops: float | None = None
    driver_gb: float | None = None
    matmul_bf16_tflops: float | None = None
    matmul_fp8_tflops: float | None = None
    link_gbs: float | None = None
    link_world: int = 1
    cores: int | None = None
    network_gbs: float | None = None
    pcie_gbs: float | None = None
    tdp_w: float | None = None
    utility_kw: float | None = None
    own_hyperscaler_usd_h: float | None = None
    own_cloud_usd_h: float | None = None
    rented_usd_h: float | None = None
    server8_rmb: float | None = None
    price_date: str = ""
    memory: str = ""
    link: str = ""
    grade: str = "C"
    source: str = ""
    price_source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigError(f"device {self.name}: {one.name} is {value}; it must be above 0, or left out.")

    def __hash__(self) -> int:
        return hash((self.name, self.bf16_tflops, self.memory_tbs))  # few of many fields: laws keep facts by device

    @property
    def memory_bytes(self) -> float:
        """Memory [B]."""
        return self.memory_gb * 1e9

    @property
    def driver_bytes(self) -> float:
        """Memory as the driver reports it, else as sold: makers of accelerators sell GiB as GB [B]."""
        return (self.driver_gb or self.memory_gb) * 1e9

    @property
    def is_host(self) -> bool:
        """Whether it is a processor with memory modules, not an accelerator."""
        return self.memory.startswith("DDR")

    @property
    def memory_bytes_per_s(self) -> float:
        """Peak memory bandwidth [B/s]."""
        return self.memory_tbs * 1e12

    def peak(self, kind: Peak) -> float:
        """Dense peak of products of a kind [FLOP/s]; of the next wider kind where the device has none of its own."""
        at = {"fp4": self.fp4_tflops, "fp8": self.fp8_tflops, "int8": self.int8_tops, "bf16": self.bf16_tflops}
        wider = {"fp4": ("fp4", "fp8", "bf16"), "fp8": ("fp8", "bf16"), "int8": ("int8", "bf16"), "bf16": ("bf16",)}
        return next(value for name in wider[kind] if (value := at[name]) is not None) * 1e12

    @property
    def usd_per_hour(self) -> float | None:
        """What an hour is taken to cost unless the user says: rented, else owned by a cloud [USD/h]."""
        return self.rented_usd_h or self.own_cloud_usd_h or self.own_hyperscaler_usd_h


class Catalogue(Mapping[str, Device]):
    """Devices by name; a name is found whatever its spelling (`H200 SXM 141GB`, `nvidia h200`, `h200_sxm`)."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = dict(devices)
        self._spellings: dict[str, str] = {}
        for name, device in self._devices.items():
            for spelling in (name, device.title, *device.aliases):
                self._spellings.setdefault(_plain(spelling), name)

    @classmethod
    def read(cls, extra: Path | None = None) -> Catalogue:
        """The shipped devices, and those of a user's file over them."""
        devices = dict(_shipped())
        for name, table in (read_toml(extra) if extra else {}).items():
            devices[name] = _device(name, table, str(extra), devices.get(name))
        return cls(devices)

    def find(self, text: str) -> Device:
        """The device that `text` names. Raises: ConfigError: none does."""
        plain = _plain(text)
        name = self._spellings.get(plain) or self._longest(text)
        if name is None:
            raise ConfigError(f"device {text!r} is not known{nearest(text, self)}; use one of {', '.join(self)}.")
        return self._devices[name]

    def _longest(self, text: str) -> str | None:
        """The longest spelling at the head of a text that ends with a word, such as H200 SXM in H200 SXM 141GB 8x."""
        words = re.findall(r"[A-Za-z]+\d*|\d+[A-Za-z]*", text)
        heads = (_plain("".join(words[:end])) for end in range(len(words), 0, -1))
        return next((self._spellings[head] for head in heads if len(head) > 2 and head in self._spellings), None)

    def counted(self, text: str) -> tuple[int, Device]:
        """(how many, which) of a text such as `8xh100`; one if it says no number."""
        if "+" in text:
            raise ConfigError(f"{text!r} names devices of two kinds; a replica is planned on one, such as 8xh100.")
        match = COUNTED.fullmatch(text.strip())
        if match is None or (match[1] is not None and not int(match[1])):
            raise ConfigError(f"{text!r} names no device; write it like 8xh100.")
        return int(match[1] or 1), self.find(match[2])

    def __getitem__(self, name: str) -> Device:
        return self._devices[name]

    def __iter__(self) -> Any:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Device]:
    return {name: _device(name, table, str(FILE), None) for name, table in read_toml(FILE).items()}


def _device(name: str, table: Any, source: str, base: Device | None) -> Device:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {name} is {table!r}; it must be a table, [{name}].")
    over = {one.name: getattr(base, one.name) for one in fields(base)} if base else {}
    return build(Device, {**over, **table, "name": name}, f"{source}: {name}")


def _plain(text: str) -> str:
    """Lower case, letters and digits only, without the maker's name."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    for maker in ("nvidia", "amd", "instinct", "geforce", "huawei"):
        plain = plain.replace(maker, "")
    return plain
