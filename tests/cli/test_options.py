"""Options that are not given leave the engine its defaults."""

import argparse

from fathom.cli.options import add_engine_options, engine_options
from fathom.engine import EngineConfig


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    return parser.parse_args(words)


def test_nothing_given_is_nothing_asked() -> None:
    assert engine_options(parse()) == {}


def test_what_is_given_fits_the_engine() -> None:
    given = engine_options(parse("--bits", "8", "--spec", "off", "--numerics", "fast", "--threads", "2"))
    config = EngineConfig(**given)
    assert (config.bits, config.spec, config.numerics, config.threads) == ("8", "off", "fast", 2)
