"""The loop of a search: a strategy asks, the ledger charges, plans are measured, the strategy is told.

It uses `evaluation` and the rooms below it.

goals: what is minimised, and bounds; opening: the space and the starting plan that a configuration asks for; selection:
the plans that a run stands for; shortlist: the best of them, healed and measured again.
"""
