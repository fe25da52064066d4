"""A training run: how long a step takes, what a rank must hold, and what the run costs.

    job.py     what is trained, on what, divided how
    reach.py   what products, attention and links reach
    chunk.py   time of a layer on one rank; step.py: of a step
    memory.py  bytes of a rank; search.py: a layout that fits and is fast
    bill.py    hours and dollars, and what a headline leaves out; inference.py: what data made by a model cost
    rows.py    measured runs predicted from their public descriptions

Read first: step.py.
"""
