"""How much text is measured where the configuration does not say."""

DEFAULTS: dict[str, dict[str, int]] = {
    "cpu": {"windows": 8, "window_tokens": 128, "report_windows": 32, "heal_windows": 160},
    "cuda": {"windows": 64, "window_tokens": 512, "report_windows": 128, "heal_windows": 1280},
}
"""Amounts of text that let a run end in minutes on this kind of device."""


def default_amounts(device_type: str) -> dict[str, int]:
    """By field of the configuration, for a kind of device such as `cuda`."""
    return DEFAULTS.get(device_type, DEFAULTS["cpu"])
