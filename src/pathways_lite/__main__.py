"""Run `pathways-lite`, also as `python -m pathways_lite`."""

from pathways_lite.cli.interrupt import end_interrupted, is_interrupted, raise_on_interrupt


def main() -> None:
    """Run the command line. Ctrl-C ends it with one line, also while its modules are imported."""
    raise_on_interrupt()
    try:
        from pathways_lite.cli.main import main as run_command_line

        run_command_line()
    except BaseException as error:
        if is_interrupted() and not isinstance(error, SystemExit):
            end_interrupted()
        raise


if __name__ == "__main__":
    main()
