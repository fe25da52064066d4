"""The value of an expression of whole numbers, + - * and parentheses, and the steps that lead to it. No eval."""

from __future__ import annotations

import re

TOKEN = re.compile(r" *(0|[1-9][0-9]{0,3}|[-+*()])")


def evaluate(expression: str) -> tuple[int, list[int]]:
    """The value, and the numbers in the expression from left to right.

    Raises: ValueError: anything but an expression, a sign without a number before it included.
    """
    value, numbers, _ = worked(expression)
    return value, numbers


def worked(expression: str) -> tuple[int, list[int], list[str]]:
    """As `evaluate`, with its steps in the order in which they are done: "12-3=9", "9*7=63".

    Raises: ValueError: anything but an expression.
    """
    tokens, at = [], 0
    expression = expression.rstrip(" ")
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"not part of an expression: {expression[at]!r}")
        tokens.append(match[1])
        at = match.end()
    steps: list[str] = []
    value, end = _sum(tokens, 0, steps)
    if end != len(tokens):
        raise ValueError(f"the expression goes on after its end: {tokens[end]!r}")
    return value, [int(token) for token in tokens if token.isdigit()], steps


def _sum(tokens: list[str], at: int, steps: list[str]) -> tuple[int, int]:
    """Value of the sum that starts at token `at`, and the token after it."""
    value, at = _product(tokens, at, steps)
    while at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        term, at = _product(tokens, at + 1, steps)
        result = value + term if sign == "+" else value - term
        steps.append(f"{value}{sign}{term}={result}")
        value = result
    return value, at


def _product(tokens: list[str], at: int, steps: list[str]) -> tuple[int, int]:
    value, at = _atom(tokens, at, steps)
    while at < len(tokens) and tokens[at] == "*":
        factor, at = _atom(tokens, at + 1, steps)
        steps.append(f"{value}*{factor}={value * factor}")
        value *= factor
    return value, at


def _atom(tokens: list[str], at: int, steps: list[str]) -> tuple[int, int]:
    if at == len(tokens):
        raise ValueError("the expression ends where a number must be")
    if tokens[at].isdigit():
        return int(tokens[at]), at + 1
    if tokens[at] != "(":
        raise ValueError(f"not a number: {tokens[at]!r}")
    value, at = _sum(tokens, at + 1, steps)
    if at == len(tokens) or tokens[at] != ")":
        raise ValueError("a parenthesis is not closed")
    return value, at + 1
