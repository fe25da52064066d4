"""Capacity: what fits, how fast, how many, what it costs, and what demand does to the bill.

    shape.py     a model as the planner sees it: blocks of matrices and attention, also dense and GQA ones
    hardware.py  accelerators: peaks, memory, links, prices, each with its source
    quantity.py  a number with its unit, definition, interval, bound and source
    serving.py   the search over layouts (pools, points, search) and its trial by the real scheduler (simulate, trial)

Arithmetic on configurations and published measurements; no torch, nothing is run. Read first: shape.py.
"""
