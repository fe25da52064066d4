"""Answers that no checker may credit, made from a right one."""

from __future__ import annotations

from fathom.tasks import Problem

ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
FULLWIDTH_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")


def wrong_texts(problem: Problem) -> list[str]:
    """Texts around, inside and near the right answer that are not the right answer."""
    right = problem.answer
    texts = [
        "",
        " ",
        ".",
        "None",
        "nan",
        f"The answer is {right}",
        f"{right} is the answer",
        f"{right} or {right}",
        f"{right}\n{right}",
        f"{problem.reply}\n{problem.reply}",
        f"{problem.trace}\n{problem.reply}",
        f"<think>{problem.trace}</think>{problem.reply}",
        f"{right};import os",
        f"__import__('os').system('true') or {right}",
        f"({right}",
        f"{right})",
        f"-{right}",
        f"+{right}",
        f"{right}..",
        f"{right}\0",
        f"{right}1",
        f"{right}.0",
        f"{right}e0",
        f"{right}, 1",
        right.translate(ARABIC_DIGITS),
        right.translate(FULLWIDTH_DIGITS),
        right + " " * 1_000_000,
        "9" * 1_000_000,
        "(" * 1_000_000 + right + ")" * 1_000_000,
        "1+" * 500_000 + "1",
    ]
    return [text for text in texts if text != right]  # an answer without digits has no foreign ones
