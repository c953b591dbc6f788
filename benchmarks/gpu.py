"""The benchmarks of speed on an accelerator, and those at the sizes that people use."""

from dataclasses import replace
from typing import Annotated

import typer

from benchmarks import evaluator, head, large, roofline
from benchmarks.setting import Setting, command, start
from searcher.architecture.devices import choose_device, computes_on_cpu
from searcher.errors import UsageError

DEFAULTS = Setting(dtype="bfloat16", device="auto", windows=64, window_tokens=512)


def main(
    setting: Setting,
    shape: Annotated[
        str | None, typer.Option(help="A random model of this shape instead: 1b, 3b, 7b, 13b, 70b; tiny to try it.")
    ] = None,
) -> None:
    """Head, roofline and evaluator on an accelerator, with windows that keep it busy; each prints its table.

    With `--shape` a random model of that size is made on the device, without a download, and searched greedily for two
    blocks: by the usual loop, by searcher, and what the floor is; with the memory that each takes. Add `--device cpu`
    to try that on the processor, which keeps no figures.

    Takes some minutes; how many has not been measured yet.
    """
    on_cpu = computes_on_cpu(choose_device(setting.device))
    if on_cpu and not (shape and setting.device == "cpu"):
        raise UsageError(
            "There is no CUDA device, nor another accelerator, that torch can see",
            "Run the benchmarks one by one on the processor, or one of a shape with --device cpu",
        )
    if shape is None:
        head.main(setting)
        roofline.main(setting)
        evaluator.main(setting)
        return
    if setting.model or setting.data:
        raise UsageError("A shape is measured on random weights and tokens", "Leave --model and --data out")
    large.measure_large(shape, replace(setting, out=None) if on_cpu and setting.of_the_project else setting)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
