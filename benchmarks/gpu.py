"""The benchmarks of speed on a CUDA device."""

import torch

from benchmarks import evaluator, head, roofline
from benchmarks.setting import Setting, command, start
from searcher.errors import UsageError

DEFAULTS = Setting(dtype="bfloat16", device="cuda", windows=64, window_tokens=512)


def main(setting: Setting) -> None:
    """Head, roofline and evaluator on a CUDA device, with windows that keep it busy; each prints its table.

    Takes some minutes; how many has not been measured yet.
    """
    if not torch.cuda.is_available():
        raise UsageError("There is no CUDA device that torch can see", "Run the benchmarks one by one on the processor")
    head.main(setting)
    roofline.main(setting)
    evaluator.main(setting)


cli = command(main, DEFAULTS, without=("device",))

if __name__ == "__main__":
    start(cli)
