"""The study: where greedy removal is wrong on SmolLM2-135M, where it holds, and how sure that is.

    make study                         # tier a: under an hour on 2 cores
    .venv/bin/python -m study --tier b # more text, seeds and strategies; says its hours first

Data flows one way: `texts` writes what is read, `searches`, `certificates`, `transfer`, `choices` and `healing` measure
by the public commands of searcher, `tables` keeps what they found as CSV files, and `claims`, `pictures` and `page` are
made of these files alone.
"""
