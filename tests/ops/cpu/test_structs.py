"""The structs that Python fills are the structs that C reads."""

import ctypes
import re
from pathlib import Path

from fathom.ops.cpu import build, structs

MIRRORED = [
    structs.Matrix, structs.Mlp, structs.Layer, structs.Arrivals, structs.Peers, structs.Model, structs.Cache,
    structs.Batch, structs.Call, structs.Kernels,
]  # fmt: skip


def test_every_struct_has_the_size_of_its_original(library: Path) -> None:
    size = ctypes.CDLL(str(library)).fathom_struct_bytes
    size.restype = ctypes.c_int64
    assert [size(i) for i in range(len(MIRRORED) + 1)] == [*map(ctypes.sizeof, MIRRORED), 0]


def test_fields_have_the_names_of_the_header_in_its_order() -> None:
    header = re.sub(r"/\*.*?\*/", "", (build.HERE / "kernels.h").read_text(encoding="utf-8"), flags=re.DOTALL)
    bodies = re.findall(r"typedef struct \{(.*?)\} (\w+);", header, flags=re.DOTALL)
    for body, name in bodies:
        if name == "kernels":
            fields = re.findall(r"\*name;|\(\*(\w+)\)", body)
            fields[0] = "name"
        elif name == "peers":
            fields = re.findall(r"\(\*(\w+)\)|\*?(\w+)(?=[,;])", re.sub(r"\)\([^;]*;", ");", body))
            fields = [one or other for one, other in fields]
        else:
            words = [part for line in body.split(";") for part in line.split(",")]
            fields = [re.findall(r"\w+", word)[-1] for word in words if word.strip()]
        mirror = next(m for m in MIRRORED if m.__name__.lower() == name)
        assert [field[0] for field in mirror._fields_] == fields, name


def test_the_abi_versions_agree() -> None:
    source = (build.HERE / "select.c").read_text(encoding="utf-8")
    assert f"#define ABI_VERSION {structs.ABI_VERSION} " in source
