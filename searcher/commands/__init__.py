"""What each command does, from a configuration to its result; a file for each.

It uses all rooms but `cli`, and never `results`.

preparation: from a configuration to all that measures; record: `run.json`, written; tracking: how much of a task is
done; opened: a model with a plan, healed if asked.
"""
