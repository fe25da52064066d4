"""Pooling: by hand on a few numbers."""

from pathlib import Path

import pytest

from fathom.errors import ConfigError, InputError
from fathom.plan.training.knobs import Ratio, Share, errors, left_out, pooled, quantile, read, shipped


def test_a_share_is_the_middle_of_its_groups() -> None:
    assert pooled([Ratio("a", 0.5), Ratio("b", 0.8), Ratio("c", 0.9)]).value == pytest.approx(0.8)


def test_many_runs_of_one_group_do_not_outvote_the_others() -> None:
    """Four runs of a weigh two, b and c one each: the middle is between."""
    ratios = [Ratio("a", 0.5)] * 4 + [Ratio(name, 0.9) for name in "bcd"]
    assert pooled(ratios).value == pytest.approx(0.9)


def test_eight_of_ten_runs_lie_between_the_ends() -> None:
    ratios = [Ratio(str(n), 0.5 + n / 100) for n in range(100)]
    share = pooled(ratios)
    inside = sum(share.value * share.low <= ratio <= share.value * share.high for _, ratio, _ in ratios)
    assert 80 <= inside <= 83  # one group more than 80 %


def test_a_group_left_out_does_not_see_itself() -> None:
    found = {one.group: share.value for one, share in left_out([Ratio("a", 0.5), Ratio("b", 0.8), Ratio("c", 0.8)])}
    assert found == pytest.approx({"a": 0.8, "b": 0.5, "c": 0.5})
    assert errors([Ratio(name, 0.8) for name in "abc"])["median"] == pytest.approx(0)


def test_models_with_experts_have_ends_of_their_own() -> None:
    dense = [Ratio(str(n), 0.9 + n / 1000) for n in range(20)]
    wide = [Ratio(f"e{n}", 0.6 + n / 20, experts=True) for n in range(12)]
    share = pooled([*dense, *wide])
    assert share.of(True).low < 0.8 < 0.97 < share.of(False).low <= 1 <= share.of(False).high < share.of(True).high
    assert pooled(dense).of(True) == pooled(dense)


def test_quantiles_by_weight() -> None:
    assert quantile([(1.0, 1.0), (2.0, 1.0), (3.0, 2.0)], 0.5) == 2.0
    assert quantile([(1.0, 1.0), (2.0, 1.0), (3.0, 2.0)], 0.75) == 3.0


def test_what_is_shipped_is_a_share_of_many_groups() -> None:
    for share in (shipped().step, shipped().run):
        assert 0.4 < share.value < 1 and share.low < 1 < share.high and share.groups >= 20


def test_a_written_share_is_read_back(tmp_path: Path) -> None:
    share = Share(0.9, 0.8, 1.2, 10, 5)
    file = tmp_path / "knobs.toml"
    file.write_text(f"[step]\n{share.to_toml()}\n\n[run]\n{share.to_toml()}\n")
    assert read(file).step == share
    file.write_text("[step]\nvalue = 1.0\n")
    with pytest.raises(ConfigError):
        read(file)
    with pytest.raises(InputError, match="no training run"):
        pooled([])
