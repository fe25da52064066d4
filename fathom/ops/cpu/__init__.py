"""Packed models in C: compiled for this machine, called by ctypes, run by a team of threads. Inference only.

`build.py` compiles and keeps the library, `structs.py` mirrors `kernels.h`, `native.py` loads, checks and wraps.
Sources: `kernels.c` and the headers it includes are compiled once per instruction set, `select.c` picks at load,
`team.c` is the threads. Must not import anything of fathom above ops.
Read first: kernels.h, then matrix.h (products), attend.h (attention), layer.h and feed.h (who does what when).
"""
