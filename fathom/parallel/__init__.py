"""How numbers move between processes: the only user of torch.distributed.

A rank is one process that owns one Shard. It computes with what it has and fetches the rest from its peers; what they
are asked is `fathom.ops.packed.Peers`, and comm.py answers it. Must not import the model, the engine or anything above.
Read groups.py first (who talks to whom), then comm.py (what they say), then control.py (who tells them what to do).
"""
