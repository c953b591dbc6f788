"""How `--help` looks: options under the headings of their kind, and a line on every command, in plain text."""

import inspect
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from searcher.runs.stdout import stdout_for_the_result

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter


class Command(TyperCommand):
    """A command whose options are listed under their `rich_help_panel`, and which has stdout for its result alone."""

    def invoke(self, ctx: "Context") -> Any:
        """Run it."""
        with stdout_for_the_result():
            return super().invoke(ctx)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the arguments, the command's own options, and then each panel."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Commands(TyperGroup):
    """Commands that are each told by the whole first paragraph of their help."""

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write a name and a paragraph for each command, in the order in which they were declared."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_paragraph(one.help)) for name, one in self.commands.items()])


def _first_paragraph(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
