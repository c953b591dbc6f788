"""What plug-ins see, and what the engine hands them: plans, spaces, costs, strategies and objectives, as plain values.

Nothing here runs a model or imports torch. It uses no other room; every other room uses it. Strategies and objectives
import this room and libraries, nothing else.

unit: a block, an attention or an FFN, which a search may remove; plan: a set of removed units; ask: plans to be scored;
layer-forward: one block run over one window, the unit of cost.
"""
