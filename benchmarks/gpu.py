"""The benchmarks of speed on a CUDA device: evaluator, head and roofline, with windows that keep it busy.

python -m benchmarks.gpu
"""

import torch
import typer

from benchmarks import evaluator, head, roofline


def main(dtype: str = "bfloat16", windows: int = 64, window_tokens: int = 512) -> None:
    """Run them one after the other; each prints its table and writes it."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device that torch can see")
    head.main(dtype, tokens=windows * window_tokens, device="cuda")
    roofline.main(dtype, windows, window_tokens, device="cuda")
    evaluator.main(dtype, windows, window_tokens, device="cuda")


if __name__ == "__main__":
    typer.run(main)
