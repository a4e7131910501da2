"""The command that looks at this machine."""

from server.cli.commands.options import AsJson, ConfigFile, ModelsDir, settings_of

_MARKS = {"ok": "ok", "warning": "!", "failure": "FAIL"}


def doctor(as_json: AsJson = False, config: ConfigFile = None, models_dir: ModelsDir = None) -> None:
    """Check this machine, and say how to mend it. Loads nothing; exit code 1 where something is wrong."""
    from dataclasses import asdict

    import typer

    from server.cli.doctor import examine
    from server.exit_codes import FAILURE
    from server.terminal.output import print_json, show_rows

    findings = examine(settings_of(config=config, models_dir=models_dir))
    if as_json:
        print_json([asdict(each) for each in findings])
    else:
        rows = [(_MARKS[each.state], each.name, each.found, each.mend) for each in findings]
        show_rows(("", "WHAT", "FOUND", "TO MEND IT"), rows)
    if any(each.state == "failure" for each in findings):
        raise typer.Exit(FAILURE)
