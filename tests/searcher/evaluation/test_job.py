"""Jobs: nothing is measured twice, nothing is lost, however often the end of a job is taken away."""

import threading
from itertools import combinations

import torch

from searcher.contracts.plan import PrunePlan, Unit
from searcher.evaluation.groups import Group
from searcher.evaluation.job import Job, make_jobs
from searcher.runs.layout import GroupLayout
from searcher.runs.measurement import Measurement, Measurements

PLANS = [PrunePlan.of(map(Unit, pair)) for pair in combinations(range(12), 2)]


def group(number=0, rows=4):
    ids = torch.zeros((rows, 8), dtype=torch.int64)
    return Group(GroupLayout(f"windows:{number}", rows, ("loss",)), ids, ids[:, 1:].bool())


def test_half_of_what_has_not_begun_is_given_back():
    job = Job("search", group(), (0, 1), PLANS[:7])
    assert job.begin(2) == 2
    rest = job.give_back()
    assert (rest.plans, job.plans, job.left) == (PLANS[4:7], PLANS[:4], 2)
    assert (rest.split, rest.rows) == (job.split, job.rows)
    assert job.begin(5) == 2
    assert job.begin(1) == 0
    assert job.give_back() is None
    assert rest.left == 3


def test_threads_that_steal_from_each_other_do_every_plan_once():
    jobs, done, lock = [Job("search", group(), (0,), PLANS)], [], threading.Lock()

    def work():
        while True:
            with lock:
                rest = [stolen for job in jobs if (stolen := job.give_back())]
                jobs.extend(rest)
            if not rest:
                return
            for job in rest:
                position = 0
                while count := job.begin(1):
                    done.append(job.plans[position])
                    position += count

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(PLANS)


def test_jobs_hold_what_is_missing():
    groups = (group(0), group(1, rows=2))
    known = Measurements({"search": tuple(g.layout for g in groups)})
    known.add(Measurement("search", PLANS[0], "windows:0", (0, 1), {"loss": (1.0, 1.0)}))
    known.add(Measurement("search", PLANS[1], "windows:0", (0, 1, 2, 3), {"loss": (1.0,) * 4}))
    jobs = list(make_jobs("search", groups, PLANS[:3], known, None, 12))
    found = {(job.group.layout.name, job.rows): set(job.plans) for job in jobs}
    assert found == {
        ("windows:0", (2, 3)): {PLANS[0]},
        ("windows:0", (0, 1, 2, 3)): {PLANS[2]},
        ("windows:1", (0, 1)): set(PLANS[:3]),
    }
    partly = list(make_jobs("search", groups, PLANS[:3], known, [0, 4], 12))
    assert {(job.group.layout.name, job.rows): set(job.plans) for job in partly} == {
        ("windows:0", (0,)): {PLANS[2]},
        ("windows:1", (0,)): set(PLANS[:3]),
    }
