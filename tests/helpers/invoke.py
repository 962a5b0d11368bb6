"""Run the command line in this process, and fail as it does."""

from typer.testing import CliRunner, Result

from pathways_lite.cli.main import app


def invoke(*arguments: object) -> Result:
    """Return the result of a command; what it raises, other than its exit status, is raised here."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
