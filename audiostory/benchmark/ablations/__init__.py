"""The paper's ablation tables in miniature: what there is to train, and what came of it. Start with `plan.py`."""
