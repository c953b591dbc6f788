"""What `--help` says, and how soon."""

import inspect
import resource
import subprocess
import sys

from typer.testing import CliRunner

from searcher.cli.app import app
from searcher.cli.flags import PANELS


def processor_seconds(*arguments):
    """What Python takes for this, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_help_takes_a_few_times_what_the_bare_command_line_library_takes():
    commands = {"nothing": ["-c", "pass"], "library": ["-c", "import typer"], "help": ["-m", "searcher", "--help"]}
    rounds = [{name: processor_seconds(*command) for name, command in commands.items()} for _ in range(5)]
    least = {name: min(round_[name] for round_ in rounds) for name in commands}
    assert least["help"] - least["nothing"] < 4 * (least["library"] - least["nothing"])


def test_lists_import_no_torch():
    code = """
import sys
sys.argv = ["searcher", "list", "strategies", "--verbose"]
from searcher.cli.app import main
try:
    main()
except SystemExit:
    pass
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def unwrapped(text):
    return "".join(text.split())


def test_help_says_what_every_command_does_and_takes():
    overview = unwrapped(CliRunner().invoke(app, ["--help"]).output)
    for command in app.registered_commands:
        name, parameters = command.name or command.callback.__name__, inspect.signature(command.callback).parameters
        told = CliRunner().invoke(app, [name, "--help"]).output
        paragraphs = command.callback.__doc__.split("\n\n")
        assert unwrapped(name + paragraphs[0]) in overview
        options = [parameter.annotation.__metadata__[0] for parameter in parameters.values()]
        for text in (*paragraphs, *(option.help for option in options)):
            assert unwrapped(text) in unwrapped(told), name
        for panel in PANELS.values():
            assert (f"\n{panel}:\n" in told) == any(option.rich_help_panel == panel for option in options)
        assert "[b]" not in told
