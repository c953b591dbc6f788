"""Plans in, measurements out: in this process by an executor, on other devices and machines by Ray.

It uses `healing` and the rooms below it.

group: token sequences that run together; job: some plans on some rows of a group; candidate: what objectives see of a
plan; prefix cache: hidden states kept from one ask to the next.
"""
