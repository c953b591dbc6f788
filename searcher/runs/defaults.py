"""How much text is measured where the configuration does not say."""

DEFAULTS: dict[str, dict[str, int]] = {
    "cpu": {"windows": 8, "fresh_windows": 64, "window_tokens": 128, "report_windows": 32, "heal_windows": 160},
    "accelerator": {
        "windows": 64,
        "fresh_windows": 256,
        "window_tokens": 512,
        "report_windows": 128,
        "heal_windows": 1280,
    },
}
"""Amounts of text that let a run end in minutes on this kind of device."""


def default_amounts(device_type: str, fresh: bool = False) -> dict[str, int]:
    """By field of the configuration.

    Args:
        device_type: a kind of device such as `cpu` or `cuda`.
        fresh: whether most plans will be seen on a few of the search windows, so that there are many of them.
    """
    amounts = dict(DEFAULTS["cpu" if device_type == "cpu" else "accelerator"])
    many = amounts.pop("fresh_windows")
    return amounts | {"windows": many} if fresh else amounts
