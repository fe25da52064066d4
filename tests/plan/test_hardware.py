"""Devices are found whatever their spelling; a user's file adds and overrides; nothing unknown is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fathom.errors import ConfigError
from fathom.plan.hardware import Catalogue

SHIPPED = Catalogue.read()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("h100", "h100_sxm"),
        ("H100 SXM 80GB", "h100_sxm"),
        ("NVIDIA H200-SXM-141GB", "h200_sxm"),
        ("gb200", "gb200_nvl72"),
        ("B300 SXM", "b300_sxm"),
        ("AMD Instinct MI355X 288GB HBM3e", "mi355x"),
        ("h800", "h800_sxm"),
        ("910C", "ascend_910c"),
        ("H800 + CX7 400Gb IB", "h800_sxm"),
        ("h20", "h20"),
        ("H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA Tesla V100 DGXS 32 GB", "v100_sxm"),
        ("Amazon Trainium1", "trainium1"),
        ("Google TPU v4", "tpu_v4"),
        ("RTX 4070 Laptop 8GB", "rtx4070_laptop"),
        ("Xeon Gold 6454S (2x32c)", "xeon_6454s"),
    ],
)
def test_spellings(text: str, name: str) -> None:
    assert SHIPPED.find(text).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_device_has_a_source_and_sensible_figures(name: str) -> None:
    device = SHIPPED[name]
    assert device.source and device.grade in "ABCD"
    assert device.peak("fp8") >= device.peak("bf16") > 0
    assert device.peak("fp4") >= device.peak("fp8")
    if device.matmul_bf16_tflops:
        assert device.matmul_bf16_tflops < device.bf16_tflops
    if device.driver_gb:  # what is sold as GB are GiB, or a little less
        assert 0.99 < device.driver_gb / device.memory_gb < 1.08
    assert device.is_host is (name in ("epyc_9654", "epyc_9755", "xeon_6454s"))


def test_counts() -> None:
    assert SHIPPED.counted("8xh100")[0] == 8 and SHIPPED.counted("8 x H100")[1].name == "h100_sxm"
    assert SHIPPED.counted("h100")[0] == 1
    for text in ("0xh100", "8x", "8xh1", "8xh1000", "2xh100+1xh200"):
        with pytest.raises(ConfigError):
            SHIPPED.counted(text)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[mine]\ntitle = "Mine"\nvendor = "me"\nbf16_tflops = 100\nmemory_gb = 24\nmemory_tbs = 1.0\n'
        "[h100_sxm]\nrented_usd_h = 9.5\n"
    )
    found = Catalogue.read(file)
    assert found.find("mine").memory_bytes == 24e9 and found.find("mine").usd_per_hour is None
    assert found.find("h100").usd_per_hour == 9.5 and found.find("h100").memory_gb == 80
    assert len(found) == len(SHIPPED) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[h100_sxm]\nmemory_gb = -1\n", "above 0"),
        ("[x]\ntitle = 'x'\n", "vendor"),
        ("[h100_sxm]\nmemory = 3\n", "memory"),
        ("[h100_sxm]\nbandwith = 3\n", "bandwith"),
        ("x = 3\n", "table"),
    ],
)
def test_errors_of_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Catalogue.read(file)
