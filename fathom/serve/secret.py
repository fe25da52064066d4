"""The secret that a front and a worker on another machine share: a file on both, proved without ever being sent.

The worker asks with a random challenge, the front answers with an HMAC of it under the secret, which the worker
compares in constant time. What follows is not encrypted: between machines, use a network that is yours alone.
"""

from __future__ import annotations

import hmac
import stat
from pathlib import Path

from fathom.errors import ConfigError

CHALLENGE_BYTES = 32
LEAST_CHARACTERS = 16


def read_secret(file: Path) -> bytes:
    """The secret in a file that only its owner can read.

    Raises: ConfigError: the file is missing, open to others, or too short to be a secret.
    """
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); it must hold the secret.") from error
    if mode & 0o077:
        raise ConfigError(f"{file} has mode {mode:03o}, open to others; it must be 600: chmod 600 {file}")
    if len(secret) < LEAST_CHARACTERS:
        raise ConfigError(
            f"{file} holds {len(secret)} characters; a secret has at least {LEAST_CHARACTERS}, such as the output of"
            " `openssl rand -hex 24`."
        )
    return secret


def read_token(file: Path) -> str:
    """The secret of a group of ranks, which reaches each of them as a line.

    Raises: ConfigError: as read_secret, or it is not one line of plain characters.
    """
    secret = read_secret(file)
    if not secret.isascii() or not secret.decode("ascii").isprintable():
        raise ConfigError(f"{file} must hold one line of plain characters, such as what `openssl rand -hex 24` prints.")
    return secret.decode("ascii")


def proof(secret: bytes, challenge: bytes) -> bytes:
    """What only somebody with the secret can answer to a challenge."""
    return hmac.digest(secret, b"fathom worker 1 " + challenge, "sha256")


def is_proof(secret: bytes, challenge: bytes, answer: bytes) -> bool:
    """Whether it was answered rightly, compared in constant time."""
    return hmac.compare_digest(proof(secret, challenge), answer)
