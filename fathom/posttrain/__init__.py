"""From base model to reasoner, and from reasoner to a concise standard model: SFT, GRPO, rejection, distillation.

Must not import serve, plan or cli. Read in this order: traces.py, sft.py, rewards.py, grpo.py, reject.py, distill.py;
run.py joins them all.
"""
