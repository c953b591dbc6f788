"""What a run is on disk, and what may be compared: configuration, measurements, journal, identity.

Nothing here runs a model or imports torch. It uses `contracts`.

run: one search, in a folder with `run.json` (what it is) and `evaluations.jsonl` (its journal, a line for each
measurement); identity: all that decides its numbers.
"""
